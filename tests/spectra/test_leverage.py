"""Leverage against the hat matrix, and the heavy rows of batches against those of all rows together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_immunize.spectra.factor import FeatureFactor
from hf_immunize.spectra.leverage import HEAVY, HeavyRows, leverage


def drawn(n, d, seed=0):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(40, 6), (6, 6), (4, 9)])
def test_leverage_is_the_diagonal_of_the_hat_matrix(shape):
    rows = drawn(*shape)
    hat = np.diag(rows.numpy() @ np.linalg.pinv(rows.numpy()))
    triangle = torch.linalg.qr(rows, mode="r").R
    np.testing.assert_allclose(leverage(rows, triangle, 1e-9), hat, atol=1e-10)
    # A direction far below the ridge does not count.
    rows[:, -1] = 0
    rows[0, -1] = 1e-6
    triangle = torch.linalg.qr(rows, mode="r").R
    assert float(leverage(rows, triangle, 1e-9)[0]) == pytest.approx(1, abs=1e-5)
    without = np.diag(rows[:, :-1].numpy() @ np.linalg.pinv(rows[:, :-1].numpy()))
    np.testing.assert_allclose(leverage(rows, triangle, 1e-3), without, atol=2e-4)


@pytest.mark.parametrize("scale", [1.0, 1e-130, 1e130])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_heavy_rows_are_found_wherever_they_come(dtype, scale):
    if dtype == torch.float32 and scale != 1:
        scale = scale ** (1 / 5)
    rows = drawn(700, 5)
    # What a channel that hardly ever lights up looks like: the first row, one in between and the last.
    lit = [0, 333, 699]
    rows = torch.cat([rows, torch.zeros(700, 3, dtype=rows.dtype)], 1)
    for column, row in enumerate(lit):
        rows[row, 5 + column] = 1e-4
    rows = (rows * scale).to(dtype)
    factor = FeatureFactor(8)
    heavy = HeavyRows(factor)
    for part in torch.arange(700).split(9):
        factor.update(rows[part])
        heavy.update(part, rows[part])
        # O(d²) numbers, whatever n.
        assert sum(map(len, heavy._rows)) <= 4 * 8 + 9
    numbers, found = heavy.found()
    hat = np.diag(rows.double().numpy() @ np.linalg.pinv(rows.double().numpy()))
    assert sorted(numbers.tolist()) == lit == np.flatnonzero(hat >= HEAVY).tolist()
    assert torch.equal(found, rows[numbers])
    # It goes on from there.
    factor.update(rows[:1])
    heavy.update(torch.tensor([700]), rows[:1])
    assert set(heavy.found()[0].tolist()) <= {0, 333, 699, 700}


def test_the_heaviest_come_first_and_zero_rows_are_no_trouble():
    factor = FeatureFactor(3)
    heavy = HeavyRows(factor)
    rows = torch.tensor([[1.0, 0, 0], [0, 3.0, 0], [0.3, 1.0, 0], [0, 0, 0]], dtype=torch.float64)
    factor.update(rows)
    heavy.update(torch.arange(4), rows)
    assert heavy.found()[0].tolist() == [0, 1]
    nothing = FeatureFactor(2)
    nothing.update(torch.zeros(3, 2))
    none = HeavyRows(nothing)
    none.update(torch.arange(3), torch.zeros(3, 2))
    assert len(none.found()[0]) == 0
