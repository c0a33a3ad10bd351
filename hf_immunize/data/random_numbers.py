"""Random numbers of the caller, which nothing beside it may draw from: neither a measurement, an attack nor a cache."""

from __future__ import annotations

import random
from collections.abc import Iterator
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
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            if seed is not None:
                random.seed(seed)
                np.random.seed(seed)
                torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)
