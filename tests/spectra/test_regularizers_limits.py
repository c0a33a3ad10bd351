"""R_well and R_ill at the limits: extreme scales, low precision, ties, lost rank, and what is refused."""

import numpy as np
import pytest
import torch
from regularizing import every_form, every_shape, gradient, random_features, reference

from hf_immunize.spectra.eigen import GramEigen
from hf_immunize.spectra.regularizers import features_r_ill, features_r_well, r_ill, r_well


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
