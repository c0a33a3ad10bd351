"""Steps of gradient descent in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hf_immunize.attacks.exact import exact_steps


@pytest.mark.parametrize("shape", [(30, 6), (6, 30)])
def test_the_exact_steps_are_those_that_gradient_descent_takes(shape):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * torch.logspace(0, -1, shape[1]).double()
    labels = torch.arange(shape[0]) % 3
    y = F.one_hot(labels, 3).double().numpy()
    a = x.numpy()
    best = np.linalg.lstsq(a, y, rcond=None)[0]
    least = np.sum((a @ best - y) ** 2)
    head, rate = np.zeros((shape[1], 3)), 1 / np.linalg.norm(a, 2) ** 2
    whole = np.sum(y**2) - least
    expected, step = {}, 0
    while len(expected) < 3:
        left = (np.sum((a @ head - y) ** 2) - least) / whole
        expected |= {share: step for share in (0.5, 0.1, 0.01) if left <= share and share not in expected}
        head -= rate * a.T @ (a @ head - y)
        step += 1
    assert exact_steps(x, labels, 3) == expected


def test_exact_steps_of_a_direction_that_is_never_fitted():
    x = torch.diag(torch.tensor([1.0, 1e-9], dtype=torch.float64)).repeat(10, 1)
    # Two more rows along the first direction: a share of exactly one half would be for rounding to decide.
    x = torch.cat([x, x[:1].repeat(2, 1)])
    assert exact_steps(x, torch.cat([torch.arange(20) % 2, torch.zeros(2, dtype=torch.long)]), 2) == {
        0.5: 1,
        0.1: None,
        0.01: None,
    }
    assert set(exact_steps(torch.zeros(4, 2), torch.arange(4) % 2, 2).values()) == {None}
