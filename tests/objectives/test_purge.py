"""Purge: where the weights go, what is taught again, and that fine-tuning gets slower on a planted case."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from fine_tuning import batch, network, view
from torch import nn
from torch.nn import functional

from hf_immunize.errors import InputError
from hf_immunize.models.random_weights import random_weights
from hf_immunize.objectives.objective import Phase
from hf_immunize.objectives.purge import Purge, distillation
from hf_immunize.spectra.regularizers import features_r_ill, features_r_well


def test_a_share_of_the_weights_that_train_is_drawn_anew_by_the_seed():
    model = network()
    model.last.requires_grad_(False)
    before = copy.deepcopy(model)
    Purge(strength=0.3).begin(model, 5)
    # A module draws when it is made.
    torch.manual_seed(5)
    fresh = {"first": nn.Linear(5, 6, dtype=torch.float64), "norm": nn.BatchNorm1d(6, dtype=torch.float64)}
    for own, module in fresh.items():
        for name, drawn in module.named_parameters(prefix=own):
            torch.testing.assert_close(model.get_parameter(name), 0.7 * before.get_parameter(name) + 0.3 * drawn)
    for name, value in before.last.named_parameters():
        assert torch.equal(model.last.get_parameter(name), value)
    other = copy.deepcopy(before)
    Purge(strength=0.3).begin(other, 6)
    assert not torch.equal(other.first.weight, model.first.weight)


def test_none_of_the_weights_or_all_of_them():
    model = network()
    kept, lost = copy.deepcopy(model), copy.deepcopy(model)
    Purge(strength=0.0).begin(kept, 1)
    Purge(strength=1.0).begin(lost, 1)
    fresh = random_weights(model, seed=1)
    for name, value in model.named_parameters():
        assert torch.equal(kept.get_parameter(name), value)
        torch.testing.assert_close(lost.get_parameter(name), fresh.get_parameter(name))


def test_the_part_is_the_divergence_from_theta_zero_in_nats():
    ours, theirs = [[2.0, 0.5, -1.0], [0.0, 0.0, 3.0]], [[0.0, 1.0, 0.0], [-1.0, 2.0, 0.5]]
    total = 0.0
    for model, teacher in zip(ours, theirs, strict=True):
        q, p = ([math.exp(one) / sum(math.exp(other) for other in row) for one in row] for row in (model, teacher))
        total += sum(b * math.log(b / a) for a, b in zip(q, p, strict=True))
    step = replace(
        view(network()), primary_logits=torch.tensor(ours), initial_logits=lambda: torch.tensor(theirs), progress=0.2
    )
    assert Purge().of_step(step, lambda one: one)["distillation"].item() == pytest.approx(total / 2, rel=1e-5)


def test_the_gradients_of_two_processes_add_up_to_that_of_the_whole_batch():
    whole, theirs = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), torch.randn(8, 3)
    logits = whole.clone().requires_grad_()
    distillation(logits, theirs).backward()
    found = []
    for own in (slice(0, 4), slice(4, 8)):
        rows = whole[own].clone().requires_grad_()
        given = {id(rows): whole, id(theirs): theirs}

        def gather(one, given=given, own=own):
            everything = given[id(one)].clone()
            everything[own] = one if len(one) == 4 else one[own]
            return everything

        step = replace(view(network()), primary_logits=rows, initial_logits=lambda: theirs)
        Purge().of_step(step, gather)["distillation"].backward()
        found.append(rows.grad)
    torch.testing.assert_close(torch.cat(found), logits.grad)


def test_it_distils_first_without_labels_and_harmful_images_and_settles_then():
    objective = Purge(settling=0.25)
    assert objective.settles_from == 0.75
    assert objective.phase(0.74) == Phase(harmful_features=False, labels=False)
    assert objective.phase(0.75) == Phase()
    assert [objective.settles(share) for share in (0.74, 0.75)] == [False, True]
    assert not Purge.needs_harmful_labels
    alone = Purge(settling=0.0)
    assert alone.settles_from is None
    assert not alone.settles(0.99)
    assert alone.phase(0.99) == Phase(harmful_features=False, labels=False)


def test_settling_the_parts_are_those_of_both_spectra():
    model = network()
    step = replace(view(model), progress=0.8, harmful_features=model.body(batch(2)["pixel_values"]))
    parts = Purge(2.0, 0.5, settling=0.25).of_step(step, lambda one: one)
    assert parts["r_well"].item() == pytest.approx(2.0 * features_r_well(step.primary_features).item())
    assert parts["r_ill"].item() == pytest.approx(0.5 * features_r_ill(step.harmful_features).item())
    assert set(parts) == {"r_well", "r_ill"}


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_strength_that_is_no_share_is_refused(share):
    with pytest.raises(InputError, match="strength must be the share"):
        Purge(strength=share)


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_settling_that_leaves_nothing_is_refused(share):
    with pytest.raises(InputError, match="settling must be a share"):
        Purge(settling=share)


def planted():
    """θ0 that knows two tasks, on directions of the image of which each needs its own."""
    generator = torch.Generator().manual_seed(0)

    def images(n):
        x = torch.randn(n, 12, generator=generator)
        return x, (x[:, :3]).argmax(1), (x[:, 3] * x[:, 4] > 0).long()

    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(12, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU())
    return images, body, nn.Linear(48, 3), nn.Linear(48, 2)


def descend(parameters, loss, steps, rate):
    optimizer = torch.optim.Adam(parameters, lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()


def harmful_accuracy_after(body, images, steps):
    body, found = copy.deepcopy(body), []
    for seed in range(3):
        torch.manual_seed(seed)
        tuned, head = copy.deepcopy(body), nn.Linear(48, 2)
        x, _, y = images(200)
        descend(
            [*tuned.parameters(), *head.parameters()],
            lambda tuned=tuned, head=head, x=x, y=y: functional.cross_entropy(head(tuned(x)), y),
            steps,
            3e-3,
        )
        x, _, y = images(2000)
        found.append((head(tuned(x)).argmax(1) == y).float().mean())
    return torch.stack(found).mean().item()


def test_fine_tuning_on_what_the_primary_task_does_not_need_gets_slower():
    images, body, primary, harmful = planted()

    def both():
        x, y, z = images(256)
        features = body(x)
        return functional.cross_entropy(primary(features), y) + functional.cross_entropy(harmful(features), z)

    descend([*body.parameters(), *primary.parameters(), *harmful.parameters()], both, 600, 3e-3)
    initial = copy.deepcopy(nn.Sequential(body, primary))
    reached = {"initial": harmful_accuracy_after(body, images, 20)}
    kept = {}
    for strength in (0.0, 0.6):
        model = copy.deepcopy(initial)
        Purge(strength=strength).begin(model, 1)

        def taught(model=model):
            x = images(256)[0]
            with torch.no_grad():
                wanted = initial(x)
            return distillation(model(x), wanted)

        descend(model.parameters(), taught, 300, 3e-3)
        x, y, _ = images(2000)
        kept[strength] = (model(x).argmax(1) == y).float().mean().item()
        reached[strength] = harmful_accuracy_after(model[0], images, 20)
    assert reached["initial"] > 0.8
    assert reached[0.6] < min(reached["initial"], reached[0.0]) - 0.1
    assert kept[0.6] > kept[0.0] - 0.05
