"""Batches a few images at a time on a CPU: memory of more than 32 MB is asked of the system anew for each layer.

The C library of Linux hands such memory back at once, and the system clears it before it gives it out again: a ResNet50
takes 1.6 times as long for 64 images of 224 px together as for eight times eight of them (scripts/benchmark.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

__all__ = ["in_parts"]

#: Bytes of images in a part: the first layers' activations of as many stay below 32 MB.
MOST_BYTES = 5_000_000


def in_parts(inputs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The batch itself, or its rows in order in parts.

    Args:
        inputs: a batch of model inputs; its first tensor tells of what size and where it is.
    """
    tensors = {key: one for key, one in inputs.items() if isinstance(one, torch.Tensor) and one.ndim}
    images = next(iter(tensors.values()), torch.empty(0))
    n = len(images)
    if images.device.type != "cpu" or images.nbytes <= MOST_BYTES:
        yield dict(inputs)
        return
    rows = max(1, MOST_BYTES * n // images.nbytes)
    for start in range(0, n, rows):
        cut = {key: one[start : start + rows] for key, one in tensors.items() if len(one) == n}
        yield {**inputs, **cut}
