"""Attackers on features alone: every model measured alike."""

from __future__ import annotations

import pytest
import torch
from planted import QUICK

from hf_immunize.attacks import Budgets, attack_features
from hf_immunize.models.extraction import Extracted


def test_features_alone_take_probes_only():
    rows = Extracted(torch.randn(20, 4), torch.randn(20, 2), torch.arange(20) % 2)
    both = {name: {"train": rows, "test": rows} for name in ("initial", "immunized")}
    assert attack_features(both, budgets=QUICK).reference == "chance"
    with pytest.raises(ValueError, match="only probes can run"):
        attack_features(both, attackers="finetuning")


def test_features_of_random_weights_may_depend_on_the_seed():
    labels = torch.arange(60) % 3
    good = Extracted(torch.nn.functional.one_hot(labels).double(), torch.zeros(60, 3), labels)
    useless = Extracted(torch.zeros(60, 3).double(), torch.zeros(60, 3), labels)
    splits = {"train": good, "test": good}
    asked = []

    def scratch(seed):
        asked.append(seed)
        return splits if seed == 0 else {"train": useless, "test": useless}

    report = attack_features(
        {"initial": splits | {"unlabelled": Extracted(good.features, good.logits, None)}, "immunized": splits}
        | {"scratch": scratch},
        attackers="ridge regression",
        budgets=Budgets((None,), (5,), seeds=(0, 1)),
    )
    found = report.attackers["ridge regression"]["accuracy"]["scratch"]["all"]["5"]["seeds"]
    assert found == [1, pytest.approx(1 / 3)]
    assert asked == [0, 1]
