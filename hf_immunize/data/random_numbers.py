"""Random numbers of the caller, which nothing beside it may draw from: neither a measurement, an attack nor a cache."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["undisturbed_random_numbers"]


@contextmanager
def undisturbed_random_numbers(seed: int | None = None) -> Iterator[None]:
    """Whatever is drawn inside from the global generators of Python, NumPy and PyTorch, they go on as if it was not.

    Those of PyTorch are the CPU's and every GPU's: ``torch.manual_seed`` seeds them all.

    Args:
        seed: of the generators inside; they go on from where they are if not given. A data loader draws a number each
            time it is iterated, so that a mere evaluation changes dropout otherwise.
    """
    python, numbers = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(_gpus()):
            if seed is not None:
                random.seed(seed)
                np.random.seed(seed)
                torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)


def _gpus() -> Sequence[int]:
    """Numbers of those that this process can draw on."""
    if not torch.cuda.device_count():
        return ()
    try:
        torch.cuda.init()
    except RuntimeError:
        # A child that was forked from a process that uses a GPU, as a worker of a data loader is, can use none itself.
        return ()
    return range(torch.cuda.device_count())
