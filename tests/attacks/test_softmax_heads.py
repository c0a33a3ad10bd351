"""Softmax heads by gradient descent, many rates at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from planted import planted

from hf_immunize.attacks.softmax_heads import curvature, linear, softmax_descent, with_bias

RULES = {
    "sgd": lambda one, rate: torch.optim.SGD(one, lr=rate),
    "nesterov": lambda one, rate: torch.optim.SGD(one, lr=rate, momentum=0.9, nesterov=True),
    "adam": lambda one, rate: torch.optim.Adam(one, lr=rate),
}


def one_by_one(rows, labels, n_classes, rule, rate, checkpoints):
    """A head from zero by an optimizer of torch, full batch."""
    head = torch.zeros(rows.shape[1] + 1, n_classes, dtype=rows.dtype, requires_grad=True)
    optimizer = RULES[rule]([head], rate)
    found = {}
    for step in range(1, max(checkpoints) + 1):
        optimizer.zero_grad()
        F.cross_entropy(with_bias(rows) @ head, labels).backward()
        optimizer.step()
        if step in checkpoints:
            found[step] = head.detach().clone()
    return found


@pytest.mark.parametrize("rule", RULES)
def test_a_grid_of_rates_is_each_rate_by_itself_as_torch_takes_it(rule):
    rows, labels, _, _ = planted(150, 9)
    rates = (1e-3, 3e-2, 0.4)
    for step, running, heads in softmax_descent(rows, labels, 4, rates, (1, 7, 30), rule=rule):
        assert running == [0, 1, 2]
        for rate, head in zip(rates, heads, strict=True):
            expected = one_by_one(rows, labels, 4, rule, rate, (step,))[step]
            torch.testing.assert_close(head, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("rule", RULES)
def test_a_rate_that_diverges_disturbs_no_other(rule):
    rows, labels, _, _ = planted(80, 5)
    (_, _, together), (_, _, alone) = (
        list(softmax_descent(rows, labels, 4, rates, (40,), rule=rule, batch_size=16))[-1]
        for rates in ((0.1, math.inf), (0.1,))
    )
    torch.testing.assert_close(together[0], alone[0], rtol=1e-9, atol=1e-12)
    assert not torch.isfinite(together[1]).all()


def test_batches_are_epochs_drawn_by_the_seed():
    rows, labels = torch.eye(8, dtype=torch.float64), torch.arange(8)
    # One epoch of batches of two at the start: each row's own column has moved.
    ((_, _, heads),) = softmax_descent(rows, labels, 8, (1.0,), (4,), batch_size=2, seed=3)
    assert (heads[0][:8].diagonal() > 0).all()
    ((_, _, half),) = softmax_descent(rows, labels, 8, (1.0,), (2,), batch_size=2, seed=3)
    assert (half[0][:8].diagonal() != 0).sum() == 4
    ((_, _, again),) = softmax_descent(rows, labels, 8, (1.0,), (2,), batch_size=2, seed=3)
    ((_, _, other),) = softmax_descent(rows, labels, 8, (1.0,), (2,), batch_size=2, seed=4)
    assert torch.equal(half, again)
    assert not torch.equal(half, other)


def test_only_the_rates_that_fit_best_go_on():
    rows, labels, _, _ = planted(200, 6)
    rates = (1e-6, 1e-4, 0.1, 1e9, 0.3)
    (_, first, _), (_, second, _) = softmax_descent(rows, labels, 4, rates, (5, 20), keep=(5, 2))
    assert first == [0, 1, 2, 3, 4]
    assert second == [2, 4]


def test_of_each_width_so_many_rates_go_on():
    rows, labels, _, _ = planted(200, 6)
    rates, widths = (1e-6, 0.1, 0.3, 1e-6, 1e-4, 0.1), (2, 2, 2, 6, 6, 6)
    (_, first, _), (_, second, heads) = softmax_descent(rows, labels, 4, rates, (5, 20), keep=(5, 1), widths=widths)
    assert len(first) == 6
    assert [widths[one] for one in second] == [2, 6]
    assert not heads[0][2:6].any()


def test_the_logits_of_heads_side_by_side_are_those_of_each_alone():
    heads = torch.randn(3, 5, 4, dtype=torch.float64)
    held, bias, calls = torch.randn(7, 5, dtype=torch.float64), torch.randn(4, dtype=torch.float64), []
    for head, logits in zip(heads, linear(lambda rows: calls.append(1) or 2 * rows, heads, bias), strict=True):
        torch.testing.assert_close(logits(held), 2 * held @ head + bias)
    assert len(calls) == 1


@pytest.mark.parametrize("rule", RULES)
def test_a_head_of_fewer_features_is_the_head_fitted_on_those_alone(rule):
    rows, labels, _, _ = planted(150, 9)
    widths = (2, 9, 5)
    ((_, _, heads),) = softmax_descent(rows, labels, 4, (0.1,) * 3, (20,), rule=rule, widths=widths, keep=(10, 3))
    for width, head in zip(widths, heads, strict=True):
        ((_, _, (alone,)),) = softmax_descent(rows[:, :width], labels, 4, (0.1,), (20,), rule=rule)
        torch.testing.assert_close(head[[*range(width), 9]], alone, rtol=1e-9, atol=1e-12)
        assert not head[width:9].any()


@pytest.mark.parametrize("shape", [(40, 7), (7, 40)])
def test_the_curvature_bounds_the_softmax_hessian(shape):
    rows = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = np.linalg.eigvalsh(rows.T.numpy() @ rows.numpy())[-1] / (2 * shape[0])
    assert curvature(rows) == pytest.approx(expected, rel=1e-10)
    labels = torch.arange(shape[0]) % 2
    hessian = torch.autograd.functional.hessian(
        lambda head: F.cross_entropy(rows @ head.view(-1, 2), labels), torch.zeros(2 * shape[1], dtype=torch.float64)
    )
    # Two classes with equal shares reach the bound.
    assert torch.linalg.eigvalsh(hessian)[-1] == pytest.approx(expected, rel=1e-6)
