"""The engine checks what it is given before any attacker runs."""

from __future__ import annotations

import math

import pytest
import torch
from planted import QUICK

from hf_immunize.attacks import attack_features
from hf_immunize.models.extraction import Extracted


def test_features_that_are_not_finite_are_said():
    good = Extracted(torch.randn(20, 4), torch.randn(20, 2), torch.arange(20) % 2)
    bad = Extracted(good.features.index_fill(0, torch.tensor([3, 5]), math.inf), good.logits, good.labels)
    both = {"initial": {"train": good, "test": good}, "immunized": {"train": bad, "test": good}}
    with pytest.raises(ValueError, match="2 of 20 train feature rows of the immunized model hold NaN or infinite"):
        attack_features(both, budgets=QUICK)
