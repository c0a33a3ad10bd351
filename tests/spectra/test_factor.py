"""The factor of features that come in batches, against a decomposition of all of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_immunize.spectra.factor import FeatureFactor


@pytest.mark.parametrize("shape", [(500, 12), (8, 30), (12, 12), (1, 5)])
def test_singular_values_are_those_of_all_rows_together(shape):
    rows = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    factor = FeatureFactor(shape[1])
    for part in rows.split(7):
        factor.update(part)
    np.testing.assert_allclose(factor.singular_values(), np.linalg.svd(rows, compute_uv=False), rtol=1e-12)
    assert factor.n_samples == shape[0]
    # Asked in between, it goes on.
    factor.update(rows[:1])
    again = np.linalg.svd(np.concatenate([rows, rows[:1]]), compute_uv=False)
    np.testing.assert_allclose(factor.singular_values(), again, rtol=1e-12, atol=1e-14)


def test_a_direction_is_seen_that_a_gram_loses():
    generator = torch.Generator().manual_seed(0)
    turn = [torch.linalg.qr(torch.randn(n, 6, generator=generator, dtype=torch.float64)).Q for n in (300, 6)]
    values = torch.logspace(0, -11, 6, dtype=torch.float64)
    factor = FeatureFactor(6)
    for part in (turn[0] * values @ turn[1].mT).split(40):
        factor.update(part)
    np.testing.assert_allclose(factor.singular_values(), values, rtol=1e-4)


def test_memory_does_not_grow_with_the_rows():
    factor = FeatureFactor(5)
    for _ in range(200):
        factor.update(torch.randn(3, 5))
        assert sum(len(one) for one in factor._waiting) <= 5 * 5
    assert factor.n_samples == 600


def test_columns_that_are_ever_other_than_zero_are_live():
    factor = FeatureFactor(4)
    factor.update(torch.tensor([[0.0, 1.0, 0.0, 0.0]]))
    factor.update(torch.tensor([[0.0, 0.0, -1e-20, 0.0]]))
    assert factor.live.tolist() == [False, True, True, False]
    assert FeatureFactor(4).live.sum() == 0


def test_extreme_and_wrong_features():
    factor = FeatureFactor(2)
    with pytest.raises(ValueError, match="no rows yet"):
        factor.singular_values()
    with pytest.raises(ValueError, match="width 2, got 3"):
        factor.update(torch.ones(1, 3))
    factor.update(torch.zeros(4, 2))
    assert factor.singular_values().tolist() == [0.0, 0.0]
    factor.update(torch.diag(torch.tensor([1e120, 1e110], dtype=torch.float64)))
    assert factor.singular_values().tolist() == pytest.approx([1e120, 1e110])


@pytest.mark.parametrize("shape", [(90, 6), (4, 6)])
def test_right_singular_vectors_are_those_of_all_rows_together(shape):
    rows = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    factor = FeatureFactor(6)
    for part in rows.split(7):
        factor.update(part)
    values, right = factor.decomposed()
    np.testing.assert_allclose(values, np.linalg.svd(rows, compute_uv=False), rtol=1e-12)
    np.testing.assert_allclose(right.mT @ right, np.eye(6), atol=1e-12)
    np.testing.assert_allclose(right.mT @ (rows.mT @ rows) @ right, np.diag([*values**2, *[0] * 6][:6]), atol=1e-11)
    assert factor.triangle.shape[1] == 6
