"""Learning to obstruct: the loss after adaptation, against copies that are adapted one after the other."""

from __future__ import annotations

import copy

import pytest
import torch
from samples import tiny_vit
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from hf_immunize.objectives.lto import LTO
from hf_immunize.objectives.objective import StepView

LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def batch(seed, n=6):
    images = torch.randn(n, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return {"pixel_values": images, "labels": LABELS[:n]}


def view(model, primary=None, harmful=None):
    def features(parameters, one):
        return functional_call(model, dict(parameters), (one["pixel_values"],))

    primary, harmful = primary or batch(1), harmful or batch(2)
    parameters = dict(model.named_parameters())
    both = (features(parameters, primary), features(parameters, harmful))
    return StepView(parameters, primary, harmful, *both, {}, features)


def adapted(model, one, steps, rate):
    """The same by a copy of the network that an optimizer moves: no graph goes through it."""
    model = copy.deepcopy(model)
    head = nn.Parameter(torch.zeros(3, 3, dtype=torch.float64))
    optimizer = torch.optim.SGD([*model.parameters(), head], lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        functional.cross_entropy(model(one["pixel_values"][:3]) @ head, one["labels"][:3]).backward()
        optimizer.step()
    return functional.cross_entropy(model(one["pixel_values"][3:]) @ head, one["labels"][3:]), model


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("first_order", [False, True])
def test_the_parts_are_the_losses_of_adapted_copies(steps, first_order):
    model = network()
    objective = LTO(2.0, 3.0, inner_steps=steps, inner_learning_rate=0.3, first_order=first_order)
    parts = objective.of_step(view(model), lambda one: one)
    assert parts["lto_primary"].item() == pytest.approx(2 * adapted(model, batch(1), steps, 0.3)[0].item())
    assert parts["lto_harmful"].item() == pytest.approx(-3 * adapted(model, batch(2), steps, 0.3)[0].item())


def test_its_gradient_goes_through_the_adaptation():
    """Finite differences of the loss of a copy that an optimizer has adapted."""
    model = network()
    part = LTO(0.0, 1.0, inner_steps=2, inner_learning_rate=0.5).of_step(view(model), lambda one: one)["lto_harmful"]
    slopes = torch.autograd.grad(part, list(model.parameters()))
    step = 1e-6
    for weights, slope in zip(model.parameters(), slopes, strict=True):
        for index in [(0, 0), (2, 1)] if weights.ndim == 2 else [(1,)]:
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    weights[index] += sign * step
                values.append(-adapted(model, batch(2), 2, 0.5)[0].item())
                with torch.no_grad():
                    weights[index] -= sign * step
            assert slope[index].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5, abs=1e-9)


def test_first_order_takes_the_gradient_at_the_adapted_weights():
    model = network()
    objective = LTO(0.0, 1.0, inner_steps=2, inner_learning_rate=0.5, first_order=True)
    slopes = torch.autograd.grad(objective.of_step(view(model), lambda one: one)["lto_harmful"], model.parameters())
    loss, moved = adapted(model, batch(2), 2, 0.5)
    for slope, wanted in zip(slopes, torch.autograd.grad(-loss, list(moved.parameters())), strict=True):
        assert torch.allclose(slope, wanted)


@pytest.mark.parametrize("first_order", [False, True])
def test_attention_is_adapted_through_as_its_plain_form_is(first_order):
    """By default a transformer runs a fused kernel, which has no second derivative."""
    slopes = {}
    for attention in ("sdpa", "eager"):
        model = tiny_vit()[0]
        model.set_attn_implementation(attention)
        parameters = dict(model.named_parameters())

        def features(weights, one, model=model):
            return functional_call(model.vit, _of_body(weights), (one["pixel_values"],)).last_hidden_state[:, 0]

        pixels = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        first, second = ({"pixel_values": one, "labels": LABELS} for one in pixels.split(6))
        step = StepView(
            parameters, first, second, features(parameters, first), features(parameters, second), {}, features
        )
        objective = LTO(1.0, 1.0, inner_steps=2, inner_learning_rate=0.5, first_order=first_order)
        loss = sum(objective.of_step(step, lambda one: one).values())
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        slopes[attention] = {name: one for name, one in zip(parameters, found, strict=True) if one is not None}
    assert any("attention" in name and one.abs().max() > 1e-4 for name, one in slopes["sdpa"].items())
    torch.testing.assert_close(slopes["sdpa"], slopes["eager"], rtol=1e-3, atol=1e-5)


def _of_body(weights):
    return {name.removeprefix("vit."): one for name, one in weights.items() if name.startswith("vit.")}


def test_what_it_needs_is_said():
    model = network()
    assert set(LTO(0.0, 1.0).of_step(view(model), lambda one: one)) == {"lto_harmful"}
    assert set(LTO(1.0, 0.0).of_step(view(model), lambda one: one)) == {"lto_primary"}
    with pytest.raises(ValueError, match="two images"):
        LTO().of_step(view(model, harmful=batch(1, 1)), lambda one: one)
    with pytest.raises(ValueError, match="class numbers"):
        LTO().of_step(view(model, primary={"pixel_values": batch(1)["pixel_values"]}), lambda one: one)
    for bad in ({"inner_steps": 0}, {"inner_learning_rate": 0.0}):
        with pytest.raises(ValueError, match="inner_"):
            LTO(**bad)
