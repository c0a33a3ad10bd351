"""TF32 is off wherever something is measured in float32, and what it was afterwards."""

from __future__ import annotations

import contextlib

import pytest
import torch
from tiny import Images, TinyNet

from hf_immunize.models.extraction import extract_features
from hf_immunize.models.frozen_prefix import FrozenPrefix
from hf_immunize.models.tf32 import without_tf32
from hf_immunize.models.trainable import select_trainable

BACKENDS = torch.backends
NEW = hasattr(BACKENDS.cuda.matmul, "fp32_precision")


def standing():
    """Every switch that can be read: whether TF32 is allowed."""
    readers = {
        "matmul": lambda: BACKENDS.cuda.matmul.allow_tf32,
        "cudnn": lambda: BACKENDS.cudnn.allow_tf32,
        "new matmul": lambda: BACKENDS.cuda.matmul.fp32_precision == "tf32",
        "conv": lambda: BACKENDS.cudnn.conv.fp32_precision == "tf32",
    }
    found = {}
    for name, read in readers.items():
        # Where old and new switches differ, the old ones cannot be read.
        with contextlib.suppress(AttributeError, RuntimeError):
            found[name] = read()
    return found


def old():
    BACKENDS.cuda.matmul.allow_tf32 = True


def chosen_by_precision():
    torch.set_float32_matmul_precision("high")


def new():
    BACKENDS.fp32_precision = "tf32"


def new_of_products():
    BACKENDS.cuda.matmul.fp32_precision = "tf32"


@pytest.fixture(params=[lambda: None, old, chosen_by_precision, *([new, new_of_products] if NEW else [])])
def chosen(request):
    request.param()
    yield
    if NEW:
        BACKENDS.fp32_precision = "none"
        BACKENDS.cuda.matmul.fp32_precision = "ieee"
    torch.set_float32_matmul_precision("highest")
    BACKENDS.cuda.matmul.allow_tf32 = False
    BACKENDS.cudnn.allow_tf32 = True


def test_it_is_off_inside_and_what_it_was_afterwards(chosen):
    before = standing()
    assert any(before.values()), "convolutions may use it by default"
    inside = {}

    def fails():
        with without_tf32():
            inside.update(standing())
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert inside
    assert not any(inside.values())
    assert standing() == before


def test_features_and_frozen_parts_are_made_without_it():
    seen, model = [], TinyNet().eval()
    model.stem.register_forward_hook(lambda *_: seen.append(any(standing().values())))
    before = standing()
    select_trainable(model, "last", torch.randn(2, 3, 8, 8))
    prefix = FrozenPrefix(model, torch.randn(2, 3, 8, 8))
    del seen[:]
    extract_features(model, Images(4))
    prefix(torch.randn(2, 3, 8, 8))
    assert seen == [False, False]
    assert standing() == before
