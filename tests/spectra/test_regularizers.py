import numpy as np
import pytest
import torch

from hf_immunize.spectra.eigen import GramEigen
from hf_immunize.spectra.regularizers import features_r_ill, features_r_well, r_ill, r_well

FORMS = [(features_r_ill, False), (features_r_ill, True), (features_r_well, False), (features_r_well, True)]
NAMES = ["raw ill", "scale-free ill", "raw well", "scale-free well"]
every_form = pytest.mark.parametrize(("function", "scale_free"), FORMS, ids=NAMES)
SHAPES = {"wide": (6, 11), "square": (8, 8), "tall": (15, 5)}
every_shape = pytest.mark.parametrize(("n", "d"), SHAPES.values(), ids=SHAPES)


def random_features(n, d, seed, rank=None):
    """float64 rows with singular values spread over a factor of ten or so."""
    rng = np.random.default_rng(seed)
    k = rank or min(n, d)
    left = np.linalg.qr(rng.standard_normal((n, k)))[0]
    right = np.linalg.qr(rng.standard_normal((d, k)))[0]
    return torch.from_numpy((left * rng.uniform(0.3, 3.0, k)) @ right.T)


def reference(features, function, scale_free):
    """The definition on the non-zero singular values of S = XᵀX, in NumPy."""
    matrix = features.detach().double().numpy()
    sigma = np.linalg.svd(matrix, compute_uv=False)[: np.linalg.matrix_rank(matrix)] ** 2
    k = len(sigma)
    if scale_free:
        mean = np.mean(sigma)
        if function is features_r_well:
            return np.log10(mean) - np.mean(np.log10(sigma))
        return np.mean(np.log10(1 + 1000 * sigma / mean))
    total = np.sum(sigma**2)
    if function is features_r_well:
        return sigma[0] ** 2 / 2 - total / (2 * k)
    return 1 / (total / (2 * k) - sigma[-1] ** 2 / 2)


def through_svdvals(features, function, scale_free, rank):
    """The same definitions as autograd differentiates them."""
    sigma = torch.linalg.svdvals(features)[:rank].square()
    if scale_free:
        shares = sigma / sigma.mean()
        return -shares.log10().mean() if function is features_r_well else (1 + 1000 * shares).log10().mean()
    total = sigma.square().sum()
    if function is features_r_well:
        return sigma[0].square() / 2 - total / (2 * rank)
    return 1 / (total / (2 * rank) - sigma[-1].square() / 2)


def gradient(function, features, **options):
    features = features.detach().clone().requires_grad_()
    value = function(features, **options)
    value.backward()
    return value.detach(), features.grad


@every_form
@pytest.mark.parametrize("rank", [None, 3])
@every_shape
def test_value_is_the_definition_on_the_nonzero_singular_values(function, scale_free, n, d, rank):
    for seed in range(5):
        features = random_features(n, d, seed, rank)
        value = function(features, scale_free=scale_free).item()
        assert value == pytest.approx(reference(features, function, scale_free), rel=1e-10)


@every_shape
@pytest.mark.parametrize("rank", [None, 3])
def test_hessian_form_equals_the_features_form(n, d, rank):
    features = random_features(n, d, 0, rank)
    hessian = features.mT @ features
    assert r_ill(hessian).item() == pytest.approx(features_r_ill(features, scale_free=False).item(), rel=1e-9)
    assert r_well(hessian).item() == pytest.approx(features_r_well(features, scale_free=False).item(), rel=1e-9)


def test_closed_form_on_a_diagonal_hessian():
    hessian = torch.diag(torch.tensor([4.0, 2.0, 1.0, 0.0], dtype=torch.float64))
    assert r_ill(hessian).item() == pytest.approx(1 / (21 / 6 - 1 / 2))
    assert r_well(hessian).item() == pytest.approx(16 / 2 - 21 / 6)


@every_form
def test_k_is_the_rank_and_not_the_width(function, scale_free):
    """With k = d and n < d the raw R_ill of this batch would be negative."""
    features = random_features(5, 20, 0)
    padded = torch.cat([features, torch.zeros(5, 30, dtype=torch.float64)], dim=1)
    repeated = torch.cat([features, torch.zeros(40, 20, dtype=torch.float64)])
    value = function(features, scale_free=scale_free)
    assert value > 0
    torch.testing.assert_close(function(padded, scale_free=scale_free), value, rtol=1e-10, atol=0)
    torch.testing.assert_close(function(repeated, scale_free=scale_free), value, rtol=1e-10, atol=0)


@every_form
@every_shape
def test_gradcheck_of_the_features_form(function, scale_free, n, d):
    features = random_features(n, d, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: function(x, scale_free=scale_free), features)


@every_form
@pytest.mark.parametrize(("n", "d"), [(9, 12), (12, 9)])
def test_gradcheck_on_rank_deficient_features(function, scale_free, n, d):
    """Along factors that keep the rank at four: elsewhere the value jumps."""
    generator = torch.Generator().manual_seed(0)
    factors = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in ((n, 4), (4, d))]
    factors = [factor.requires_grad_() for factor in factors]
    assert torch.autograd.gradcheck(lambda a, b: function(a @ b, scale_free=scale_free), factors)


@pytest.mark.parametrize("function", [r_ill, r_well])
@every_shape
def test_gradcheck_of_the_hessian_form(function, n, d):
    features = random_features(n, d, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: function(x.mT @ x), features)


@every_form
@pytest.mark.parametrize("rank", [None, 3])
@every_shape
def test_closed_form_gradient_equals_autograd_through_svdvals(function, scale_free, n, d, rank):
    for seed in range(5):
        features = random_features(n, d, seed, rank)
        _, closed = gradient(function, features, scale_free=scale_free)
        k = rank or min(n, d)
        _, expected = gradient(lambda x, k=k: through_svdvals(x, function, scale_free, k), features)
        torch.testing.assert_close(closed, expected, rtol=1e-8, atol=1e-10 * expected.abs().max().item())


@pytest.mark.parametrize("rank", [None, 3])
def test_gradient_by_the_hessian_is_the_papers(rank):
    """Property 2: (σ_k u_k v_kᵀ − S/k) / (‖S‖²_F/(2k) − σ_k²/2)² and σ_1 u_1 v_1ᵀ − S/k."""
    for seed in range(100):
        features = random_features(12, 7, seed, rank)
        hessian = features.mT @ features
        left, sigma, right = np.linalg.svd(hessian.numpy())
        k = rank or 7
        smallest = sigma[k - 1] * np.outer(left[:, k - 1], right[k - 1]) - hessian.numpy() / k
        largest = sigma[0] * np.outer(left[:, 0], right[0]) - hessian.numpy() / k
        gap = np.sum(sigma[:k] ** 2) / (2 * k) - sigma[k - 1] ** 2 / 2
        _, ill = gradient(r_ill, hessian)
        _, well = gradient(r_well, hessian)
        np.testing.assert_allclose(ill, smallest / gap**2, rtol=1e-7, atol=1e-9 * np.abs(smallest / gap**2).max())
        np.testing.assert_allclose(well, largest, rtol=1e-7, atol=1e-9 * np.abs(largest).max())


def many_hessians():
    """Four hundred: n below, at and above d, of full and of lower rank; with their features and non-zero σ."""
    for seed in range(400):
        rng = np.random.default_rng(seed)
        n, d = rng.integers(2, 20, size=2)
        rank = int(rng.integers(2, min(n, d) + 1)) if seed % 2 else None
        features = random_features(n, d, seed, rank)
        sigma = np.linalg.svd(features.numpy(), compute_uv=False)[: rank or min(n, d)] ** 2
        if sigma[0] > 1.01 * sigma[-1]:
            yield features, features.mT @ features, sigma


def kappa(matrix, k):
    sigma = np.linalg.svd(matrix, compute_uv=False)[:k]
    return sigma[0] / sigma[-1]


def test_property_1_r_ill_bounds_the_inverse_log_condition_number():
    count = 0
    for features, hessian, sigma in many_hessians():
        bound = 1 / (sigma[0] ** 2 * np.log(sigma[0] / sigma[-1]))
        assert r_ill(hessian).item() >= bound * (1 - 1e-9)
        assert features_r_ill(features, scale_free=False).item() >= bound * (1 - 1e-9)
        count += 1
    assert count > 350


@every_form
def test_r_ill_and_r_well_are_not_negative(function, scale_free):
    for features, _, sigma in many_hessians():
        value = function(features, scale_free=scale_free).item()
        assert value > 0
        if scale_free:
            assert value <= (np.log10(sigma[0] / sigma[-1]) if function is features_r_well else np.log10(1001))


def test_the_scale_free_forms_bound_the_condition_number_from_both_sides():
    for features, _, sigma in many_hessians():
        condition = sigma[0] / sigma[-1]
        assert condition <= 4 * 10 ** (len(sigma) * features_r_well(features).item()) * (1 + 1e-9)
        assert condition >= 1 / (1e-3 * (10 ** features_r_ill(features).item() - 1)) * (1 - 1e-9)


@pytest.mark.parametrize("fraction", [1e-3, 0.5, 0.99])
def test_property_3_a_step_along_r_ill_raises_and_along_r_well_lowers_the_condition_number(fraction):
    for _, hessian, sigma in many_hessians():
        k = len(sigma)
        gap = np.sum(sigma**2) / (2 * k) - sigma[-1] ** 2 / 2
        _, step = gradient(r_ill, hessian)
        rate = fraction * k / (k - 1) * gap**2
        assert kappa((hessian - rate * step).numpy(), k) > kappa(hessian.numpy(), k)
        _, step = gradient(r_well, hessian)
        # Up to where σ_1 would fall below σ_k.
        rate = fraction * k * (sigma[0] - sigma[-1]) / ((k - 1) * sigma[0] + sigma[-1])
        assert kappa((hessian - rate * step).numpy(), k) < kappa(hessian.numpy(), k)


@every_form
def test_a_step_on_the_features_moves_the_condition_number_the_right_way(function, scale_free):
    for features, _, sigma in many_hessians():
        _, step = gradient(function, features, scale_free=scale_free)
        moved = features - 1e-4 * features.norm() * step / step.norm()
        change = kappa(moved.numpy(), len(sigma)) - kappa(features.numpy(), len(sigma))
        assert (change > 0) == (function is features_r_ill)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 0.3, 7.0, 1e3, 1e30])
@pytest.mark.parametrize("function", [features_r_ill, features_r_well])
@pytest.mark.parametrize("rank", [None, 3])
@every_shape
def test_scaling_and_permuting_change_no_scale_free_value(function, scale, n, d, rank):
    features = random_features(n, d, 3, rank)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    value, slope = gradient(function, features)
    changed, changed_slope = gradient(function, scale * features[order])
    assert changed.item() == pytest.approx(value.item(), rel=1e-9)
    torch.testing.assert_close(changed_slope * scale, slope[order], rtol=1e-7, atol=1e-9 * slope.abs().max().item())


@every_form
@pytest.mark.parametrize("scale", [1e-160, 1e-100, 1e-60, 1e60, 1e100, 1e160])
def test_extreme_scales_are_finite_or_a_clear_error(function, scale_free, scale):
    features = random_features(5, 9, 0)
    power = 0 if scale_free else 4 if function is features_r_well else -4
    refusal = None
    try:
        value, slope = gradient(function, scale * features, scale_free=scale_free)
    except ValueError as error:
        refusal = str(error)
    if refusal is None:
        assert value.item() == pytest.approx(reference(features, function, scale_free) * scale**power, rel=1e-9)
        assert torch.isfinite(slope).all()
    else:
        assert "float64" in refusal or "overflow" in refusal


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_raw_form_scales_as_the_paper_says(scale):
    features = random_features(10, 6, 0)
    for function, power in ((features_r_ill, -4), (features_r_well, 4)):
        value, scaled = (function(x, scale_free=False).item() for x in (features, scale * features))
        assert scaled == pytest.approx(value * scale**power, rel=1e-9)


@every_form
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(64, 768), (96, 24), (32, 32)])
def test_low_precision_gives_the_value_of_the_numbers_it_holds(function, scale_free, dtype, shape):
    features = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    value, slope = gradient(function, features, scale_free=scale_free)
    exact, exact_slope = gradient(function, features.double(), scale_free=scale_free)
    assert torch.isfinite(value)
    assert torch.isfinite(slope).all()
    assert slope.dtype == dtype
    eps = torch.finfo(dtype).eps
    assert value.item() == pytest.approx(exact.item(), rel=eps)
    torch.testing.assert_close(slope.double(), exact_slope, rtol=2 * eps, atol=1e-7)


@every_form
def test_autocast_changes_nothing(function, scale_free):
    features = random_features(16, 40, 0).float()
    value, slope = gradient(function, features, scale_free=scale_free)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, inside_slope = gradient(function, features, scale_free=scale_free)
    assert inside == value
    torch.testing.assert_close(inside_slope, slope, rtol=0, atol=0)


@every_form
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_all_zero_features_are_refused(function, scale_free, dtype):
    with pytest.raises(ValueError, match="all zero"):
        function(torch.zeros(4, 6, dtype=dtype), scale_free=scale_free)


@every_form
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused(function, scale_free, value):
    features = torch.ones(4, 6)
    features[2, 3] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        function(features, scale_free=scale_free)


def test_one_row_has_one_singular_value():
    row = torch.randn(1, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for options in ({}, {"scale_free": False}):
        value, slope = gradient(features_r_well, row, **options)
        assert value == 0
        assert not slope.any()
    value, slope = gradient(features_r_ill, row)
    assert value.item() == pytest.approx(np.log10(1001))
    assert slope.abs().max() < 1e-15
    with pytest.raises(ValueError, match="R_ill is infinite"):
        features_r_ill(row, scale_free=False)


@every_form
@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (6, 6)])
def test_gradients_at_ties_are_finite_and_symmetric(function, scale_free, shape):
    """σ_1 twice and σ_k three times: the gradient treats tied directions alike."""
    features = torch.zeros(shape, dtype=torch.float64)
    features[range(6), range(6)] = torch.tensor([2.0, 2.0, 1.5, 1.0, 1.0, 1.0], dtype=torch.float64)
    value, slope = gradient(function, features, scale_free=scale_free)
    assert value.item() == pytest.approx(reference(features, function, scale_free))
    diagonal = slope[range(6), range(6)]
    torch.testing.assert_close(diagonal[:2], diagonal[:1].expand(2))
    torch.testing.assert_close(diagonal[3:], diagonal[3:4].expand(3))
    assert (slope.abs().sum() - diagonal.abs().sum()) < 1e-12
    assert diagonal.abs().max() > 1e-3


@every_form
@pytest.mark.parametrize(("n", "d"), [(6, 10), (10, 6), (6, 6)])
def test_gradients_at_ties_turn_with_the_features(function, scale_free, n, d):
    """Tied up to rounding only: the gradient may not pick the direction that rounding puts last."""
    generator = torch.Generator().manual_seed(0)
    turns = [torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator)).Q for size in (n, d)]
    features = torch.zeros(n, d, dtype=torch.float64)
    features[range(6), range(6)] = torch.tensor([2.0, 2.0, 1.5, 1.0, 1.0, 1.0], dtype=torch.float64)
    _, slope = gradient(function, features, scale_free=scale_free)
    _, turned = gradient(function, turns[0] @ features @ turns[1].mT, scale_free=scale_free)
    torch.testing.assert_close(turned, turns[0] @ slope @ turns[1].mT, rtol=1e-9, atol=1e-11)


@every_shape
def test_eigenproblem_has_the_smaller_size(n, d):
    features = random_features(n, d, 0)
    eigen = GramEigen.of(features)
    eigenvalues, vectors, left = eigen.values, eigen.vectors, eigen.left
    assert vectors.shape == (min(n, d), min(n, d))
    assert left is (n <= d)
    expected = np.linalg.svd(features.numpy(), compute_uv=False)[::-1] ** 2
    np.testing.assert_allclose(eigenvalues, expected, rtol=1e-10)


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (6, 6)])
def test_all_singular_values_equal(shape):
    features = 2 * torch.eye(*shape, dtype=torch.float64)
    for options in ({}, {"scale_free": False}):
        value, slope = gradient(features_r_well, features, **options)
        assert value == 0
        assert slope.abs().max() < 1e-12
    value, slope = gradient(features_r_ill, features)
    assert value.item() == pytest.approx(np.log10(1001))
    assert slope.abs().max() < 1e-12
    with pytest.raises(ValueError, match="R_ill is infinite"):
        features_r_ill(features, scale_free=False)
    with pytest.raises(ValueError, match="R_ill is infinite"):
        r_ill(torch.eye(5, dtype=torch.float64))
    assert r_well(torch.eye(5, dtype=torch.float64)) == 0


@every_form
def test_duplicated_rows_and_dead_columns_are_finite(function, scale_free):
    """Rank ten of 64 x 128: what a batch with repeated images and dead units looks like."""
    generator = torch.Generator().manual_seed(0)
    features = torch.relu(torch.randn(10, 128, generator=generator)).repeat(7, 1)[:64]
    features[:, ::3] = 0
    value, slope = gradient(function, features, scale_free=scale_free)
    assert value.item() == pytest.approx(reference(features, function, scale_free), rel=1e-5)
    assert torch.isfinite(slope).all()
    assert slope.abs().max() > 0
    assert not slope[:, ::3].any()


def test_the_gradient_reaches_the_features_through_a_loss():
    features = random_features(8, 12, 0).requires_grad_()
    weight = torch.full((), 3.0, dtype=torch.float64)
    (weight * features_r_well(features) + features.sum()).backward()
    _, alone = gradient(features_r_well, features)
    torch.testing.assert_close(features.grad, 3 * alone + 1)
    assert not features_r_well(features.detach()).requires_grad


@pytest.mark.parametrize(
    ("hessian", "error", "message"),
    [
        (torch.ones(3), ValueError, r"\(d, d\)"),
        (torch.ones(3, 4), ValueError, r"\(d, d\), got \(3, 4\)"),
        (torch.ones(0, 0), ValueError, r"\(d, d\)"),
        (torch.zeros(3, 3), ValueError, "zero"),
        (torch.tensor([[1.0, 2.0], [0.0, 1.0]]), ValueError, "symmetric"),
        (torch.diag(torch.tensor([1.0, -0.5])), ValueError, "positive semi-definite"),
        (-torch.eye(3), ValueError, "Hessian"),
        (torch.diag(torch.tensor([1.0, torch.nan])), ValueError, "NaN or infinite"),
        (torch.eye(3, dtype=torch.int64), TypeError, "floating tensor"),
        ([[1.0]], TypeError, "got list"),
    ],
)
@pytest.mark.parametrize("function", [r_ill, r_well])
def test_bad_hessians_are_named(function, hessian, error, message):
    with pytest.raises(error, match=message):
        function(hessian)


@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        (torch.ones(3), ValueError, r"\(n, d\)"),
        (torch.ones(2, 3, 4, 4), ValueError, r"\(n, d\)"),
        (torch.ones(0, 3), ValueError, r"\(n, d\)"),
        (torch.ones(3, 3, dtype=torch.int64), TypeError, "floating tensor"),
        (np.ones((3, 3)), TypeError, "got ndarray"),
    ],
)
@every_form
def test_bad_features_are_named(function, scale_free, features, error, message):
    with pytest.raises(error, match=message):
        function(features, scale_free=scale_free)
