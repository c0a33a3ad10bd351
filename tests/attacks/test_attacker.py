"""Attackers of one's own, and the choice among those there are."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from planted import QUICK
from tiny import Images

from hf_immunize import run_attacks
from hf_immunize.attacks import ATTACKERS, Fit
from hf_immunize.attacks.attacker import attacker_choices, choose_attackers, probe_names


def test_a_dozen_lines_add_an_attacker(own_attacker, two_models):
    @own_attacker("nearest class mean")
    def nearest_class_mean(task):
        """The class whose mean is nearest."""
        means = torch.stack([task.rows[task.labels == one].mean(0) for one in range(task.n_classes)])
        yield Fit("", 0, lambda rows: -torch.cdist(rows, means))

    report = run_attacks(
        *two_models, Images(80), Images(40), attackers=["nearest class mean", "ridge regression"], budgets=QUICK
    )
    assert set(report.attackers) == {"nearest class mean", "ridge regression"}
    assert report.attackers["nearest class mean"]["description"] == "The class whose mean is nearest."


def test_without_peft_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"'LoRA' needs peft: pip install 'hf-immunize\[attacks\]'"):
        choose_attackers("all")
    assert [one.name for one in choose_attackers("probes")] == probe_names()


def test_the_long_search_is_a_group_of_its_own_and_every_attacker_has_a_word_of_the_command_line():
    groups = {group: [one.name for one in choose_attackers(group)] for group in ("all", "finetuning", "thorough")}
    assert set(groups["thorough"]) == set(ATTACKERS)
    assert groups["all"] == probe_names() + groups["finetuning"]
    assert len(groups["finetuning"]) == 5
    words = attacker_choices()
    assert words[:4] == ["all", "probes", "finetuning", "thorough"]
    assert sorted(words[4:]) == sorted(one.short for one in ATTACKERS.values())
    assert not any(set(" ,") & set(word) for word in words)
