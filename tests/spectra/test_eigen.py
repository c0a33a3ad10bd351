"""Eigenpairs of Grams against NumPy, and gradients of functions of eigenvalues against autograd."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hf_immunize.spectra.eigen import (
    GramEigen,
    as_float64,
    exp_or_inf,
    log_left_over,
    of_features,
    of_hessian,
    rank_floor,
    shared_by_ties,
)

SHAPES = [(12, 5), (5, 12), (7, 7)]


def rows(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def log_sum(values):
    """Σ log(1 + v), and its derivative by each eigenvalue."""
    return torch.log1p(values).sum(), 1 / (1 + values)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_eigenpairs_are_numpys_singular_values_squared(n, d):
    x = rows(n, d)
    eigen = GramEigen.of(x)
    expected = np.sort(np.linalg.svd(x.numpy(), compute_uv=False) ** 2)
    np.testing.assert_allclose(eigen.values.numpy(), expected, rtol=1e-9)
    gram = x @ x.mT if eigen.left else x.mT @ x
    assert eigen.vectors.shape == (min(n, d), min(n, d))
    torch.testing.assert_close((eigen.vectors * eigen.values) @ eigen.vectors.mT, gram)


def test_directions_below_rounding_are_left_out():
    x = rows(9, 3) @ rows(3, 6, seed=1)
    eigen = GramEigen.of(x)
    assert len(eigen.values) == 3
    assert eigen.values.min() > 0


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_the_gradient_by_the_features_is_autograds(n, d):
    x, twin = rows(n, d).requires_grad_(), rows(n, d).requires_grad_()
    (3 * of_features(x, log_sum)).backward()
    # log det(1 + XᵀX), by another way.
    (3 * torch.linalg.slogdet(torch.eye(d, dtype=torch.float64) + twin.mT @ twin)[1]).backward()
    torch.testing.assert_close(x.grad, twin.grad)


def test_the_gradient_by_the_hessian_is_autograds():
    s = rows(8, 5).mT @ rows(8, 5)
    hessian, twin = s.clone().requires_grad_(), s.clone().requires_grad_()
    of_hessian(hessian, log_sum).backward()
    torch.linalg.slogdet(torch.eye(5, dtype=torch.float64) + twin)[1].backward()
    torch.testing.assert_close(hessian.grad, twin.grad)


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("columns", [None, 2])
def test_least_squares_is_numpys_of_minimum_norm(n, d, columns):
    x = rows(n, d)
    y = rows(n, columns or 1, seed=3).squeeze(1) if columns is None else rows(n, columns, seed=3)
    expected = np.linalg.lstsq(x.numpy(), y.numpy(), rcond=None)[0]
    np.testing.assert_allclose(GramEigen.of(x).least_squares(y).numpy(), expected, rtol=1e-7, atol=1e-9)


def test_ties_share_the_weight_equally():
    values = torch.tensor([1.0, 2.0, 2.0, 2.0], dtype=torch.float64)
    assert shared_by_ties(values, 0).tolist() == [1, 0, 0, 0]
    assert shared_by_ties(values, -1).tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3])


def test_small_functions():
    assert rank_floor(3, 8) == 8 * np.finfo(np.float64).eps
    assert as_float64(torch.ones(2, dtype=torch.float16)).dtype == torch.float64
    assert exp_or_inf(1.0) == math.e
    assert exp_or_inf(1e4) == math.inf
    left = log_left_over(torch.tensor([2.0, 1.0, 1e-9], dtype=torch.float64))
    assert left[0] == -math.inf
    assert left[1:].tolist() == pytest.approx([math.log(0.75), -2.5e-19])


def test_what_has_no_spectrum_says_so():
    with pytest.raises(TypeError, match="floating tensor"):
        GramEigen.of(torch.ones(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="all zero"):
        GramEigen.of(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="positive semi-definite"):
        of_hessian(torch.diag(torch.tensor([1.0, -1.0])), log_sum)
    with pytest.raises(ValueError, match="must be symmetric"):
        of_hessian(torch.tensor([[1.0, 1.0], [0.0, 1.0]]), log_sum)
