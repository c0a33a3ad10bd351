"""Coordinates that probes fit in: what they are, that they are made once, and that a rotation loses nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planted import planted

from hf_immunize.attacks.attacker import AttackTask
from hf_immunize.attacks.coordinates import Coordinates, centred_svd, remembered, standardised, unscaled, whitened
from hf_immunize.attacks.softmax_heads import curvature, softmax_descent, with_bias


def task_of(rows, n_classes=2):
    return AttackTask(rows, torch.arange(len(rows)) % n_classes, n_classes, (1,))


def test_whitening_gives_unit_covariance_on_the_span():
    rows, _, held, _ = planted(300, 12)
    white, values = whitened(task_of(rows))
    covariance = torch.cov(white.train.double().mT, correction=0)
    torch.testing.assert_close(covariance, torch.eye(12).double(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(white.held(held)[3:5], white.held(held[3:5]), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(values, np.linalg.svd((rows - rows.mean(0)).numpy(), compute_uv=False), rtol=1e-10)
    # Ten directions in twelve columns, with rounding of float32: the other two are left out and not blown up.
    lost = (rows[:, :10] @ torch.randn(10, 12, dtype=torch.float64)).float()
    white, values = whitened(task_of(lost))
    assert white.train.shape == (300, 10)
    assert len(values) == 10
    assert whitened(task_of(torch.ones(5, 3))) is None


def test_whitening_finds_a_direction_far_below_single_precision():
    rows, _, held, _ = planted(300, 12)
    scales = torch.logspace(0, -11, 12, dtype=torch.float64)
    hidden = whitened(task_of(rows * scales))[0].held(held * scales)[:20]
    plain = whitened(task_of(rows))[0].held(held)[:20]
    # The same space in other directions: distances are those of the features before they were spoilt.
    torch.testing.assert_close(torch.cdist(hidden, hidden), torch.cdist(plain, plain), rtol=1e-3, atol=1e-3)


def test_standardised_and_unscaled_rows_are_what_numpy_makes_of_them():
    rows, _, held, _ = planted(100, 6)
    rows[:, 2] = held[:, 2] = 4.0
    mean, spread = rows.numpy().mean(0), rows.numpy().std(0)
    spread[2] = np.inf
    own = standardised(task_of(rows))
    np.testing.assert_allclose(own.train, (rows.numpy() - mean) / spread, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(own.held(held)[:, :-1], (held.numpy() - mean) / spread, rtol=1e-5, atol=1e-6)
    assert (own.held(held)[:, -1] == 1).all()
    size = np.sqrt((rows.numpy() ** 2).mean())
    np.testing.assert_allclose(unscaled(task_of(rows)).train, rows.numpy() / size, rtol=1e-6)
    exact = unscaled(task_of(rows), torch.float64).train
    assert exact.dtype == torch.float64
    np.testing.assert_allclose(exact, rows.numpy() / size, rtol=1e-14)
    assert unscaled(task_of(torch.zeros(4, 3))).train.eq(0).all()


@pytest.mark.parametrize("make", [unscaled, standardised, whitened, centred_svd])
def test_what_is_worked_out_of_a_draw_is_worked_out_once(make):
    task = task_of(planted(60, 5)[0])
    assert make(task) is make(task)
    assert make(task) is not make(task_of(task.rows))


def test_held_out_rows_are_prepared_once():
    calls = []
    prepare = remembered(lambda held: calls.append(1) or held + 1)
    first, second = torch.zeros(2), torch.zeros(2)
    assert prepare(first) is prepare(first)
    assert prepare(second).eq(1).all()
    assert len(calls) == 2


@pytest.mark.parametrize("rule", ["sgd", "nesterov"])
def test_in_the_span_of_few_rows_descent_is_what_it_is_among_all_features(rule):
    rows, labels, held, _ = planted(20, 50)
    own = Coordinates(rows, lambda given: given)
    assert own.turned.train.shape == (20, 20)
    assert own.turned.curvature == pytest.approx(own.curvature, rel=1e-10)
    logits = []
    for one in (own, own.turned):
        ((_, _, (head,)),) = softmax_descent(one.train, labels, 4, (0.1,), (40,), rule=rule)
        logits.append(one.held(held) @ head)
    torch.testing.assert_close(*logits, rtol=1e-9, atol=1e-10)
    many = Coordinates(planted(60, 50)[0], lambda given: given)
    assert many.turned is many


def rows_of(kind: str, n: int, d: int, seed: int) -> torch.Tensor:
    rows = torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    if kind == "positive":
        return rows.relu()
    if kind == "one direction":
        return rows[:, :1] * rows[:1]
    if kind == "two directions":
        return rows[:, :2] * torch.tensor([1.0, 1e-4], dtype=torch.float64) @ rows[:2]
    if kind == "flat":
        return torch.linalg.qr(rows).Q if n >= d else torch.linalg.qr(rows.mT).Q.mT
    return rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(200, 150), (100, 82), (90, 300)])
@pytest.mark.parametrize("kind", ["centred", "positive", "one direction", "two directions", "flat"])
def test_the_largest_singular_value_by_iteration_is_the_one_by_decomposition(kind, shape, dtype):
    """Also where the rows have no more directions than the iteration takes steps, and only rounding is left."""
    for seed in range(20):
        for rows in (rows_of(kind, *shape, seed), with_bias(rows_of(kind, *shape, seed))):
            expected = np.linalg.svd(rows.numpy(), compute_uv=False)[0] ** 2 / (2 * len(rows))
            spread = 1e-3 if kind == "centred" else 1e-5
            assert curvature(rows.to(dtype)) == pytest.approx(expected, rel=spread), seed


def test_rows_of_zeros_have_no_curvature():
    assert curvature(torch.zeros(100, 80)) == 0
