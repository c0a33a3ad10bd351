"""What a few rows say of rounding: the bound against singular values, and against features in both precisions."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch

from hf_immunize import features_and_logits
from hf_immunize.metrics.precision import KNOWN, OnePass
from hf_immunize.metrics.report import Protocol
from hf_immunize.metrics.rounding import N_DRAWN, N_HEAVY, RoundingCheck
from hf_immunize.spectra.factor import FeatureFactor
from hf_immunize.spectra.leverage import HeavyRows


def passed(single, groups):
    seen = OnePass(groups, torch.float32)
    for part in torch.arange(len(single)).split(17):
        seen.update(part, single[part], single[part][:, :1], None)
    return seen


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [(60, 9), (9, 9), (7, 12)])
def test_eta_bounds_the_error_of_every_singular_value(shape, seed):
    """Of all rows in both precisions η is a theorem: NumPy's singular values of either never differ by more."""
    generator = torch.Generator().manual_seed(seed)
    n, d = shape
    scales = torch.logspace(0, -6, d, dtype=torch.float64)
    rows = torch.randn(n, d, dtype=torch.float64, generator=generator) * scales
    error = 1e-7 * torch.randn(n, d, dtype=torch.float64, generator=generator) * scales.sqrt()
    factor = FeatureFactor(d)
    factor.update(rows)
    values, exact = (np.linalg.svd(one.numpy(), compute_uv=False) for one in (rows, rows - error))
    _, right = factor.decomposed()
    for index in range(1, min(n, d) + 1):
        padded = torch.zeros(d, dtype=torch.float64)
        padded[: len(values)] = torch.from_numpy(values)
        weights = right / padded.clamp_min(values[index - 1])
        check = RoundingCheck(torch.arange(n), rows, torch.arange(n) < n - 1, weights, 0.0)
        every = RoundingCheck(check.numbers, rows, torch.arange(n) >= 0, weights, 0.0)
        assert every.relative_error(rows - error) == np.inf
        # The last row is not heavy, and stands for itself: SAFETY can only add to it.
        size = float((rows[-1] @ weights).square().sum())
        bound = RoundingCheck(check.numbers, rows, check.is_heavy, weights, size).relative_error(rows - error)
        full = float(torch.linalg.matrix_norm(error @ weights))
        assert full <= bound <= full * np.sqrt(2) + 1e-15
        assert abs(exact[index - 1] / values[index - 1] - 1) <= bound


def test_the_rows_are_the_heaviest_and_some_of_those_drawn_and_the_rest_is_what_they_leave():
    rows = torch.randn(400, 6, generator=torch.Generator().manual_seed(0))
    rows[:, 5] = 0
    rows[123, 5], rows[[7, 8], 4] = 1e-3, 50.0
    groups = Protocol(2, 40).indices(400)
    check = passed(rows, groups).check(6)
    assert check.numbers.tolist() == sorted(check.numbers.tolist())
    heavy = check.numbers[check.is_heavy].tolist()
    hat = np.diag(rows.double().numpy() @ np.linalg.pinv(rows.double().numpy()))
    assert 123 in heavy
    assert len(heavy) <= N_HEAVY
    assert min(hat[heavy]) >= 0.4
    assert set(check.numbers[~check.is_heavy].tolist()) == set(groups[0][:N_DRAWN].tolist()) - set(heavy)
    assert torch.equal(check.rows, rows[check.numbers].double())
    assert check.rest == pytest.approx(6 - hat[heavy].sum(), rel=1e-9)
    # At an earlier index the directions after it count less.
    values = np.linalg.svd(rows.double().numpy(), compute_uv=False)
    third = passed(rows, groups).check(3)
    weights = np.linalg.svd(rows.double().numpy())[2].T / np.maximum(values, values[2])
    expected = np.square(rows.double().numpy() @ weights).sum(1)
    kept = np.setdiff1d(np.arange(400), third.numbers[third.is_heavy].numpy())
    assert third.rest == pytest.approx(expected[kept].sum(), rel=1e-9)


def test_nothing_is_known_of_rows_that_none_stands_for():
    factor = FeatureFactor(2)
    rows = torch.eye(2)
    factor.update(rows)
    heavy = HeavyRows(factor)
    heavy.update(torch.arange(2), rows)
    check = RoundingCheck.of(2, factor, heavy, (torch.arange(2), rows))
    assert check.is_heavy.all()
    assert check.relative_error(rows.double()) == np.inf


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_100", "convnext_atto", "vit_tiny_patch16_224"])
def test_what_the_rows_call_known_is_known(name):
    """Features of real architectures in both precisions, with a channel that one image lights up, barely."""
    torch.manual_seed(1)
    model = timm.create_model(name, **({"img_size": 32} if name.startswith("vit") else {})).eval()
    images = torch.randn(300, 3, 32, 32) + torch.randn(300, 3, 1, 1)
    with torch.no_grad():
        single = features_and_logits(model, images)[0]
        double = features_and_logits(model.double(), images.double())[0]
    live = double.abs().mean(0).sort(descending=True).indices[:40]
    single, double = single[:, live], double[:, live]
    n_known = 0
    for size in torch.logspace(0, -10, 11).tolist():
        sparse = [torch.zeros(300, 1, dtype=one.dtype) for one in (single, double)]
        for column, one in zip(sparse, (single, double), strict=True):
            column[211] = size * one[211].abs().max()
        rows = [torch.cat(pair, 1) for pair in zip((single, double), sparse, strict=True)]
        values = [np.linalg.svd(one.double().numpy(), compute_uv=False) for one in rows]
        check = passed(rows[0], Protocol(1, 50).indices(300)).check(41)
        bound = check.relative_error(rows[1][check.numbers].double())
        error = abs(values[0][-1] / values[1][-1] - 1)
        assert error <= bound
        n_known += bound <= KNOWN
    assert n_known
