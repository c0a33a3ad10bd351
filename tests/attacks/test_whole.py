"""Attackers that train every layer."""

from __future__ import annotations

import torch
from planted import FINETUNING, Gain, Stages, fits_of, reached, rivals
from tiny import Images, TinyNet

from hf_immunize.attacks import ATTACKERS, whole
from hf_immunize.attacks.attacker import AttackTask


def test_the_best_with_batch_normalisation_still_and_without_both_go_on():
    names = [name for name, _ in fits_of("all weights")[:4]]
    assert [name.endswith("BatchNorm still") for name in names] == [True, False, True, False]
    found = fits_of("all weights", answers=(0.1, 0.7, 0.2, 0.8, 0.5, 0.9))
    assert found[4:] == [(names[3], 2), (names[2], 2), (names[2], 3), (names[3], 3)]


def test_batch_normalisation_stands_still_where_a_setting_says_so():
    torch.manual_seed(0)
    data = Images(32, n_classes=2)
    task = AttackTask(data, data.y, 2, (3,), 0, lambda: TinyNet().eval())
    before = TinyNet().blocks[0].norm.running_mean
    moved = {}
    for fit in ATTACKERS["all weights"](task):
        backbone = fit.scores.__self__.classifier.backbone
        moved[fit.setting] = not torch.equal(backbone.blocks[0].norm.running_mean, before)
    assert len(moved) == 4
    assert all(did_move != name.endswith("BatchNorm still") for name, did_move in moved.items())


def test_what_is_ahead_early_is_not_alone_where_many_steps_are_allowed():
    assert [steps for _, steps in fits_of("LoRA", steps=(1, 2, 3))] == [1] * 4 + [2] * 3 + [3]
    assert [steps for _, steps in fits_of("LoRA", steps=(1, 2, 3, 101))] == [1] * 4 + [2] * 3 + [3] * 2 + [101] * 2


def many_small_differences(n_classes):
    """The middle layer lost the classes, each in a direction of its own; the layer before breaks if it is trained."""
    torch.manual_seed(0)
    model = Stages(n_classes)
    with torch.no_grad():
        model.second.weight[:, :n_classes] = 0
    model.blocks[0][1] = Gain(model.first, 1e3)
    return model


def test_only_adapters_of_high_rank_bring_back_what_was_lost_in_many_directions():
    found = reached(many_small_differences(60), FINETUNING, 60, noise=0.35, per_class=20)
    # A second adapter begins with the same first one.
    assert found["LoRA of rank 32"] > rivals(found, "LoRA of rank 32", "LoRA, then a second") + 0.2


def test_a_second_adapter_adds_its_own_rank(monkeypatch):
    """On a small scale: ranks 1 and 2 in place of 8 and 32, and eight directions."""
    monkeypatch.setattr(whole, "LORA_RANK", 1)
    monkeypatch.setattr(whole, "HIGH_RANK", 2)
    names = ["all weights", "LoRA", "LoRA of rank 32", "LoRA, then a second"]
    found = reached(many_small_differences(8), names, noise=0.4, per_class=40, steps=(60, 300))
    assert found["LoRA, then a second"] > rivals(found, "LoRA, then a second") + 0.15


def test_only_rates_far_below_the_usual_train_what_is_tuned_to_break():
    torch.manual_seed(0)
    model = Stages()
    with torch.no_grad():
        model.second.weight[:, :8] = 0
    model.blocks[0][1], model.blocks[1][0] = Gain(model.first, 1e3), Gain(model.second, 1e3)
    found = reached(model, FINETUNING)
    assert found["rates far from the usual"] > 0.85
    assert rivals(found, "rates far from the usual") < 0.5
