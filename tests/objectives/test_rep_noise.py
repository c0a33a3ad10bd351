"""Representation noising: the discrepancy from its definition, and what a step is pulled towards."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hf_immunize.objectives.objective import StepView
from hf_immunize.objectives.rep_noise import RepNoise, gaussian_mmd


def rows(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_definition(x, z):
    """The mean of all kernel values, pair by pair."""
    both = np.concatenate([x, z])
    n = len(both)
    distances = np.array([[((a - b) ** 2).sum() for b in both] for a in both])
    width = distances.sum() / (n * (n - 1)) / 4
    kernel = sum(np.exp(-distances / (width * 2**power)) for power in range(5))
    m = len(x)
    return kernel[:m, :m].mean() + kernel[m:, m:].mean() - 2 * kernel[:m, m:].mean()


@pytest.mark.parametrize(("n", "d"), [(2, 1), (7, 3), (12, 40)])
def test_the_discrepancy_is_the_one_of_its_definition(n, d):
    x, z = 3 * rows(n, d, 1) + 1, rows(n, d, 2)
    assert gaussian_mmd(x, z).item() == pytest.approx(by_definition(x.numpy(), z.numpy()), rel=1e-9)
    assert gaussian_mmd(z, z).item() == pytest.approx(0, abs=1e-12)


def test_noise_lies_nearer_to_noise_than_anything_else():
    noise = gaussian_mmd(rows(200, 5, 1), rows(200, 5, 2)).item()
    assert noise < 0.05 < gaussian_mmd(rows(200, 5, 1) + 2, rows(200, 5, 2)).item()
    assert noise < 0.05 < gaussian_mmd(0.1 * rows(200, 5, 1), rows(200, 5, 2)).item()


def test_its_gradient_is_its_derivative():
    z = rows(6, 3, 2)
    # The bandwidth is held constant in the backward pass, so that it has to be in the forward one.
    x = rows(6, 3, 1).requires_grad_()
    value = gaussian_mmd(x, z)
    slope = torch.autograd.grad(value, x)[0]
    towards = x.detach() - 0.05 * slope / slope.norm()
    assert gaussian_mmd(towards, z) < value


def view(hidden, features, labels):
    return StepView({}, {}, {"labels": labels}, features, features, hidden, lambda parameters, batch: features, seed=4)


def ridge_error(x, y, penalty=0.1):
    a, b = x - x.mean(0), y - y.mean(0)
    weight = penalty * np.trace(a @ a.T) / len(a)
    return ((a @ np.linalg.solve(a.T @ a + weight * np.eye(x.shape[1]), a.T @ b) - b) ** 2).mean()


def test_the_parts_are_those_of_the_paper():
    features, labels = rows(10, 4), torch.arange(10) % 2
    hidden = {"one": rows(10, 6, 3).reshape(10, 2, 3), "two": 2 * rows(10, 5, 4)}
    parts = RepNoise(lambda_harmful=2.0, ascent=0.5).of_step(view(hidden, features, labels), lambda one: one)
    generator = torch.Generator().manual_seed(4)
    drawn = [torch.randn(one.flatten(1).shape, generator=generator).double() for one in hidden.values()]
    terms = [
        by_definition(one.flatten(1).numpy(), noise.numpy()) for one, noise in zip(hidden.values(), drawn, strict=True)
    ]
    assert parts["noise"].item() == pytest.approx(2 * np.mean(terms))
    wanted = math.log(ridge_error(features.numpy(), np.eye(2)[labels.numpy()]))
    assert parts["ascent"].item() == pytest.approx(-2 * 0.5 * wanted)


def test_ascent_raises_the_harmful_loss():
    features, labels = rows(10, 4).requires_grad_(), torch.arange(10) % 2
    step = view({"features": features}, features, labels)
    slope = torch.autograd.grad(RepNoise(ascent=1.0).of_step(step, lambda one: one)["ascent"], features)[0]
    before = ridge_error(features.detach().numpy(), np.eye(2)[labels.numpy()])
    after = ridge_error((features - 1e-3 * slope / slope.norm()).detach().numpy(), np.eye(2)[labels.numpy()])
    assert after > before


def test_what_it_needs_is_said():
    features, labels = rows(4, 2), torch.arange(4) % 2
    assert set(RepNoise(ascent=0.0).of_step(view({"f": features}, features, labels), lambda one: one)) == {"noise"}
    assert RepNoise(lambda_harmful=0.0).of_step(view({"f": features}, features, labels), lambda one: one) == {}
    with pytest.raises(ValueError, match="features alone were given"):
        RepNoise()(features, features, labels)
    with pytest.raises(ValueError, match="needs the labels"):
        RepNoise().of_step(view({"f": features}, features, None), lambda one: one)
    with pytest.raises(ValueError, match="ascent"):
        RepNoise(ascent=-1.0)


def test_a_harmful_batch_of_one_class_has_nothing_to_raise():
    features = rows(6, 3)
    step = view({"f": features}, features, torch.ones(6, dtype=torch.long))
    parts = RepNoise().of_step(step, lambda one: one)
    assert parts["ascent"] == 0
    assert torch.isfinite(parts["noise"])
