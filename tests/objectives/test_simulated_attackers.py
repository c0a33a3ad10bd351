"""Simulated attackers: whose turn it is, what the model is told, and that it makes fine-tuning slower."""

from __future__ import annotations

import pytest
import torch
from fine_tuning import batch, network, view

from hf_immunize.errors import InputError
from hf_immunize.objectives.fine_tuner import FineTuner, Traits
from hf_immunize.objectives.objective import Phase
from hf_immunize.objectives.simulated_attackers import SimulatedAttackers
from hf_immunize.spectra.regularizers import features_r_ill, features_r_well


def test_the_part_is_the_ignorance_of_one_attacker_and_its_gradient_has_norm_lambda():
    model = network()
    objective = SimulatedAttackers(lambda_harmful=0.7, attackers=1, inner_steps=3)
    part = objective.of_step(view(model, harmful=batch(2, n=24)), lambda one: one)["ignorance"]
    slopes = torch.autograd.grad(part, list(model.parameters()), allow_unused=True)
    norm = sum(one.square().sum() for one in slopes if one is not None).sqrt()
    assert norm.item() == pytest.approx(0.7)
    assert part.item() == pytest.approx(0.7 * expected(model)[0])
    theirs = expected(model)[1]
    for (name, _), slope in zip(model.named_parameters(), slopes, strict=True):
        if name in theirs:
            torch.testing.assert_close(slope / 0.7, theirs[name])


def expected(model):
    """The same by hand: a fine-tuner of the same birth, trained on the last 18 images, judged by the first 6."""
    objective = SimulatedAttackers(attackers=1)
    step = view(model, harmful=batch(2, n=24))
    tuner = FineTuner(objective._next(step, 3).traits, step, 3)
    images = batch(2, n=24)
    tuner.fine_tune(step, {name: one[6:] for name, one in images.items()}, 3)
    value, slopes = tuner.ignorance(step, {name: one[:6] for name, one in images.items()})
    norm = sum(one.square().sum() for one in slopes.values()).sqrt()
    return value.item(), {name: one / norm for name, one in slopes.items()}


def test_attackers_take_turns_grow_old_and_are_replaced():
    model = network()
    objective = SimulatedAttackers(attackers=2, inner_steps=3, lives=(6,))
    born = []
    for seed in range(9):
        objective.of_step(view(model, harmful=batch(seed, n=24), seed=seed), lambda one: one)
        born.append({place: one.traits.seed for place, one in objective._living.items()})
    # Each acts twice of its six steps of life, the third turn is another one's.
    assert [one[0] for one in born] == [0, 0, 0, 0, 2, 2, 2, 2, 4]
    assert born[-1][1] == 3


def test_a_class_that_comes_later_gets_a_head():
    model = network()
    objective = SimulatedAttackers(attackers=1)
    objective.of_step(view(model, harmful=batch(1, n=24)), lambda one: one)
    more = batch(2, n=24)
    more["labels"][5] = 6
    objective.of_step(view(model, harmful=more), lambda one: one)
    assert objective._living[0].n_classes == 7


@pytest.mark.parametrize(
    ("options", "labels", "said"),
    [
        ({"attackers": 0}, 24, "attackers must be"),
        ({"lives": ()}, 24, "lives"),
        ({"lives": (10, 0)}, 24, "lives must be"),
        ({}, 6, "eight harmful images"),
        ({}, None, "class numbers"),
    ],
)
def test_what_it_cannot_do_is_refused(options, labels, said):
    harmful = batch(2, n=labels or 24)
    step = view(network(), harmful=harmful)
    if labels is None:
        del harmful["labels"]

    def tried():
        SimulatedAttackers(**options).of_step(step, lambda one: one)

    with pytest.raises(InputError, match=said):
        tried()


def test_without_weight_there_are_no_attackers_and_nothing_is_balanced():
    objective = SimulatedAttackers(lambda_harmful=0.0)
    assert set(objective.of_step(view(network()), lambda one: one)) == {"r_well"}
    assert not objective.phase(0.0).balanced


def test_against_a_fine_tuner_of_the_future_the_model_gets_slower():
    """What it is for: after training with it fine-tuners that it never met learn less in as many steps."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(3, 5, generator=generator, dtype=torch.float64)

    def images(n):
        labels = torch.arange(n) % 3
        return {
            "pixel_values": centres[labels] + 0.5 * torch.randn(n, 5, generator=generator, dtype=torch.float64),
            "labels": labels,
        }

    def reached(model):
        found = []
        for seed in range(12):
            tuner = FineTuner(Traits.drawn(900 + seed, (50,)), view(model), 3)
            tuner.fine_tune(view(model, seed=seed), images(96), 30)
            found.append(tuner.ignorance(view(model), images(96))[0])
        # Knowing nothing is zero.
        return torch.stack(found).mean().item()

    model = network()
    before = reached(model)
    objective = SimulatedAttackers(attackers=2, inner_steps=5, lives=(20, 40))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for seed in range(300):
        optimizer.zero_grad()
        objective.of_step(view(model, harmful=images(64), seed=seed), lambda one: one)["ignorance"].backward()
        optimizer.step()
    assert reached(model) < 0.85 * before


def test_against_heads_both_spectra_stand_beside_the_primary_loss_at_every_step():
    phase = Phase(harmful_features=False, balanced=("task_loss", "r_well", "r_ill"))
    assert SimulatedAttackers().phase(0.0) == SimulatedAttackers().phase(0.99) == phase
    assert SimulatedAttackers(lambda_primary=0.0).phase(0.5).balanced == ("task_loss", "r_ill")
    model, harmful = network(), batch(2, n=90)
    step = view(model, harmful=harmful)
    parts = SimulatedAttackers(2.0, 0.5).of_step(step, lambda one: one)
    assert set(parts) == {"ignorance", "r_well", "r_ill"}
    assert parts["r_well"].item() == pytest.approx(2.0 * features_r_well(step.primary_features).item())
    of_model = features_r_ill(model.body(harmful["pixel_values"][:64]))
    assert parts["r_ill"].item() == pytest.approx(0.05 * of_model.item())
    for found, wanted in zip(
        torch.autograd.grad(parts["r_ill"], [*model.first.parameters(), *model.last.parameters()]),
        torch.autograd.grad(0.05 * of_model, [*model.first.parameters(), *model.last.parameters()]),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted)
