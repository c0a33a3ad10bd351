"""Some rows of a data set, drawn by a seed: one rule wherever fewer are taken than there are."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.utils.data import Subset

from hf_immunize.errors import InputError

__all__ = ["at_most", "drawn_numbers"]


def drawn_numbers(n_rows: int, most: int, seed: int = 0) -> np.ndarray:
    """At most so many of the numbers 0 … n_rows − 1, drawn by the seed, ascending."""
    if n_rows <= most:
        return np.arange(n_rows)
    return np.sort(np.random.default_rng(seed).permutation(n_rows)[:most])


def at_most(data: Any, most: int | None, seed: int = 0) -> Any:
    """At most so many rows of a map-style data set, drawn by the seed, in the order in which they stand (None: all)."""
    if most is not None and most < 1:
        raise InputError(f"At most {most} rows were asked for (max_samples). Give 1 or more, or None for all.")
    if most is None or len(data) <= most:
        return data
    return Subset(data, drawn_numbers(len(data), most, seed).tolist())
