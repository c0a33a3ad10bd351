"""Attackers that train the last block alone."""

from __future__ import annotations

import copy

import torch
from tiny import Images, TinyNet
from torch.utils.data import Subset

from hf_immunize import run_attacks
from hf_immunize.attacks import Budgets


def test_fine_tuning_brings_back_what_no_probe_finds():
    """The last block maps everything to one point: heads see nothing, who trains the block sees all."""
    torch.manual_seed(0)
    base = TinyNet().eval()
    dead = copy.deepcopy(base)
    with torch.no_grad():
        dead.widen.weight.zero_()
        dead.widen.bias.fill_(1.0)
    images = Images(480, seed=0)
    data, test = Subset(images, range(300)), Subset(images, range(300, 480))
    budgets = Budgets((None,), (30,), (None,), (20, 60), seeds=(0,))
    report = run_attacks(
        dead, base, data, test, attackers=["probes", "last block, re-initialised"], budgets=budgets, scratch=False
    )
    assert report.verdict["outcome"]["probe"] == "held"
    assert "last block, re-initialised" in report.verdict["broken_by"]
    assert "broken by: last block, re-initialised" in report.verdict["text"]
