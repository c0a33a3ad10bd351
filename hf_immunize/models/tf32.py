"""Full float32 on a GPU, whatever was chosen for speed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["without_tf32"]


def _switches() -> list[tuple[Any, str, Any]]:
    """What holds a switch, its name, and where it stands for full float32: the older switches first.

    An operation's own switch follows the older one, or the newer one of its whole backend: only when the older ones are
    off does it say which.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    old = [(matmul, "allow_tf32", False), (cudnn, "allow_tf32", False)]
    return old + [(one, "fp32_precision", "ieee") for one in (matmul, getattr(cudnn, "conv", None)) if one is not None]


@contextmanager
def without_tf32() -> Iterator[None]:
    """Inside, matrix products and convolutions of float32 on a GPU keep all 24 bits; the switches go back afterwards.

    PyTorch lets convolutions round to 11 bits (TF32) by default. That is a thousandth of each number, where RIR reads
    singular values that are a millionth of the largest.
    """
    changed: list[tuple[Any, str, Any]] = []
    try:
        for owner, name, full in _switches():
            try:
                before = getattr(owner, name)
            except (AttributeError, RuntimeError):  # No such switch, or newer ones are in use beside it.
                continue
            if before not in (full, "none"):
                setattr(owner, name, full)
                changed.append((owner, name, before))
        yield
    finally:
        for owner, name, before in reversed(changed):
            setattr(owner, name, before)
