"""R_well and R_ill: values, gradients and the properties that the paper proves."""

import numpy as np
import pytest
import torch
from regularizing import every_form, every_shape, gradient, random_features, reference, through_svdvals

from hf_immunize.spectra.regularizers import features_r_ill, features_r_well, r_ill, r_well


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
