"""The best linear head in closed form, against scikit-like algebra in NumPy and against autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_immunize.objectives.ridge import Ridge, ridge_alignment


def rows(n, d, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, d, generator=generator, dtype=torch.float64)


def by_numpy(x, y, penalty):
    """Ridge in the primal, with the penalty in units of the mean eigenvalue of the n × n Gram."""
    found = []
    n = len(x) // 2
    for fit, other in ((slice(0, n), slice(n, None)), (slice(n, None), slice(0, n))):
        mean, centre = x[fit].mean(0), y[fit].mean(0)
        a, b = x[fit] - mean, y[fit] - centre
        weight = penalty * np.trace(a @ a.T) / len(a)
        head = np.linalg.solve(a.T @ a + weight * np.eye(x.shape[1]), a.T @ b)
        predictions, wanted = (x[other] - mean) @ head, y[other] - centre
        found.append((predictions * wanted).sum() / (wanted**2).sum())
    return np.mean(found)


@pytest.mark.parametrize(("n", "d"), [(8, 3), (9, 30), (64, 17)])
@pytest.mark.parametrize("penalty", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_it_is_ridge_regression_of_each_half(n, d, penalty, scale):
    x, labels = rows(n, d, n, scale), torch.arange(n) % 3
    found = ridge_alignment(x, labels, penalty)
    assert found.item() == pytest.approx(by_numpy(x.numpy(), np.eye(3)[labels.numpy()], penalty), rel=1e-7, abs=1e-9)
    numbers = rows(n, 2, 5)
    assert ridge_alignment(x, numbers, penalty).item() == pytest.approx(
        by_numpy(x.numpy(), numbers.numpy(), penalty), rel=1e-7, abs=1e-9
    )


def test_its_gradient_is_its_derivative():
    x, labels = rows(8, 3).requires_grad_(), torch.arange(8) % 2
    assert torch.autograd.gradcheck(lambda one: ridge_alignment(one, labels, 0.1), x)


def test_features_that_tell_the_classes_apart_align_and_noise_does_not():
    labels = torch.arange(200) % 4
    apart = torch.eye(4, dtype=torch.float64)[labels] + 0.01 * rows(200, 4)
    assert ridge_alignment(apart, labels, 1e-3).item() > 0.95
    assert abs(ridge_alignment(rows(200, 4), labels, 1e-3).item()) < 0.15


def test_nothing_is_gained_below_what_noise_gives():
    """A negative alignment is no protection: whoever sees it turns the head round."""
    x, labels = rows(8, 3), torch.arange(8) % 2
    found = next(seed for seed in range(50) if ridge_alignment(rows(8, 3, seed), labels, 0.1) < 0)
    x = rows(8, 3, found).requires_grad_()
    part = Ridge(0.0, 2.0)(x, x, labels)["ridge"]
    assert part.item() == 0
    part.backward()
    assert not x.grad.any()


def test_both_terms_stand_beside_each_other():
    x, labels = rows(8, 3), torch.arange(8) % 2
    assert set(Ridge()(x, x, labels)) == {"r_well", "ridge"}
    assert set(Ridge(lambda_primary=0.0)(x, x, labels)) == {"ridge"}
    with pytest.raises(ValueError, match="needs the labels"):
        Ridge()(x, x)
    with pytest.raises(ValueError, match="four rows or more"):
        Ridge()(x, x[:3], labels[:3])
    with pytest.raises(ValueError, match="penalty must be positive"):
        Ridge(penalty=0)
