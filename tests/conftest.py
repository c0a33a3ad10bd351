"""Shared fixtures: no network, few threads, tiny models and images with structure."""

from __future__ import annotations

import copy
import os

# Before any import of the libraries that read them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import pytest
import torch
from tiny import Images, TinyNet
from torch import nn
from transformers.utils import logging

from hf_immunize.attacks import ATTACKERS, attacker

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def said_anew():
    """What is said once in a process is said in each test, whichever tests ran in the process before it."""
    type(logging.get_logger("hf_immunize")).warning_once.cache_clear()


@pytest.fixture
def tiny_net() -> nn.Module:
    torch.manual_seed(0)
    return TinyNet()


@pytest.fixture
def primary() -> Images:
    return Images(96, seed=1)


@pytest.fixture
def harmful() -> Images:
    return Images(40, n_classes=4, seed=2, labels=False)


@pytest.fixture
def own_attacker():
    """Registers attackers that are gone after the test."""
    before = dict(ATTACKERS)
    yield attacker
    ATTACKERS.clear()
    ATTACKERS.update(before)


@pytest.fixture
def two_models():
    torch.manual_seed(1)
    base = TinyNet().eval()
    model = copy.deepcopy(base)
    with torch.no_grad():
        model.widen.weight += 0.1 * torch.randn_like(model.widen.weight)
    return model, base
