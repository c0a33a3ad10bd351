"""Attackers that train every layer."""

from __future__ import annotations

import torch
from planted import fits_of
from tiny import Images, TinyNet

from hf_immunize.attacks import ATTACKERS
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
