"""Attackers that first undo what stands in the way: each breaks a planted model that no other does."""

from __future__ import annotations

import copy

import torch
from planted import FINETUNING, Gain, Stages, reached, rivals
from tiny import Images, TinyNet
from torch import nn

from hf_immunize import run_attacks
from hf_immunize.attacks import ATTACKERS, Budgets
from hf_immunize.attacks.attacker import AttackTask


def seeded():
    torch.manual_seed(0)
    return Stages()


def test_only_rescaled_layers_train_where_one_is_small_and_the_next_is_large():
    """The middle layer lost the classes; the function is that of usual scales, but steps of the usual size are not."""
    model = seeded()
    with torch.no_grad():
        model.second.weight[:, :8] = 0
        model.first.weight.mul_(1e-4)
        model.second.weight.div_(1e-4)
    found = reached(model, FINETUNING)
    assert found["rescaled layers"] > 0.9
    assert rivals(found, "rescaled layers") < 0.5


def test_fits_with_rescaled_layers_are_those_of_the_model_that_was_never_rescaled():
    model = seeded()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.first.weight.mul_(1e-4)
        other.second.weight.div_(1e-4)
        # One unit of the layer alone, too.
        other.second.weight[3] *= 50
        other.second.bias[3] *= 50
        other.third.weight[:, 3] /= 50
    first, second = (reached(one, ["rescaled layers"], steps=(5, 15)) for one in (model, other))
    assert abs(first["rescaled layers"] - second["rescaled layers"]) < 0.1


def test_only_dead_units_drawn_anew_give_what_they_block():
    model = seeded()
    with torch.no_grad():
        model.second.bias -= 100
    found = reached(model, FINETUNING)
    assert found["dead units drawn anew"] > 0.9
    assert rivals(found, "dead units drawn anew") < 0.3


def test_of_a_layer_with_few_units_alive_the_dead_are_drawn_anew_and_the_others_stay():
    model = seeded()
    with torch.no_grad():
        model.second.bias[4:] -= 100
    kept = model.second.weight[:4].clone()
    data = Images(40)
    task = AttackTask(data, data.y, 3, (1,), 0, lambda: copy.deepcopy(model))
    fit = next(ATTACKERS["dead units drawn anew"](task))
    backbone = fit.scores.__self__.classifier.backbone
    assert torch.allclose(backbone.second.weight[:4], kept, atol=0.05)
    assert (backbone.second.bias > -50).all()
    assert (backbone.blocks[:2](data.x).std(0) > 0).float().mean() > 0.5


def test_only_shrink_and_perturb_tells_units_apart_that_are_all_the_same():
    """Equal units have equal gradients for ever; adapters do not reach a parameter of no usual layer."""
    model = seeded()
    with torch.no_grad():
        model.second.weight.copy_(model.second.weight[:1].expand(16, 16))
        model.third.weight.copy_(model.third.weight[:, :1].expand(24, 16))
    model.blocks[1][0], model.blocks[2][0] = Gain(model.second), nn.Sequential(Gain(model.third))
    found = reached(model, FINETUNING)
    assert found["shrink and perturb"] > 0.65
    assert rivals(found, "shrink and perturb") < 0.45


def test_only_the_way_to_the_public_backbone_brings_back_what_the_model_forgot():
    model = seeded()
    public = copy.deepcopy(model)
    public.head = nn.Linear(24, 5)
    with torch.no_grad():
        known = public.first.weight[:8]
        model.first.weight[:8] = 0.04 * torch.randn(8, 192)
        model.first.weight -= model.first.weight @ known.mT @ known
    found = reached(model, FINETUNING, public=public)
    assert found["towards the public backbone"] > 0.75
    assert rivals(found, "towards the public backbone") < 0.45


def test_the_public_backbone_is_for_models_that_are_released_and_noted_where_it_is_missing(two_models):
    model, base = two_models
    torch.manual_seed(5)
    public = TinyNet().eval()
    name, names = "towards the public backbone", ["all-weights", "towards-public"]
    budgets = Budgets((None,), (5,), (None,), (1, 2), seeds=(0,))
    data = Images(40), Images(20)
    report = run_attacks(
        model, base, *data, public=public, attackers=["all-weights", "towards-public"], budgets=budgets
    )
    for one, by_samples in report.attackers[name]["accuracy"].items():
        setting = by_samples["all"]["2"]["setting"]
        assert ("of the way" in setting) == (one in ("initial", "immunized")), (one, setting)
        if one not in ("initial", "immunized"):
            assert by_samples == report.attackers["all weights"]["accuracy"][one]
    other = run_attacks(model, base, *data, public=Stages(), attackers=names, budgets=budgets, scratch=False)
    assert other.attackers[name]["accuracy"] == other.attackers["all weights"]["accuracy"]
    without = run_attacks(model, base, *data, attackers=["ridge regression", "towards-public"], budgets=budgets)
    assert "Without the public backbone these attackers were left out: towards the public backbone." in without.notes
