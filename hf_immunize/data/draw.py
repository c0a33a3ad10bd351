"""Some rows of a data set, drawn by a seed: one rule wherever fewer are taken than there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import Subset

from hf_immunize.data.labels import plain_label
from hf_immunize.errors import InputError

__all__ = ["at_most", "drawn_numbers", "with_each_class"]


def drawn_numbers(n_rows: int, most: int, seed: int = 0, labels: Sequence[Any] | None = None) -> np.ndarray:
    """At most so many of the numbers 0 … n_rows − 1, drawn by the seed, ascending; with ``labels`` of each class."""
    if n_rows <= most:
        return np.arange(n_rows)
    drawn = np.random.default_rng(seed).permutation(n_rows)
    kept = drawn[:most] if labels is None else with_each_class(drawn[:most], drawn[most:], labels)[0]
    return np.sort(kept)


def with_each_class(kept: np.ndarray, rest: np.ndarray, labels: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Rows that are kept and the rest, where a row of each class is kept as far as others have two to give one.

    Nothing changes where all classes are among the kept ones already; a row without a label (None, −1) is of no class.

    Args:
        kept: row numbers.
        rest: row numbers that are not kept.
        labels: of all rows.
    """
    plain = [plain_label(one) for one in labels]
    held = Counter(plain[row] for row in kept.tolist())
    lost: dict[Any, int] = {}
    for place, row in enumerate(rest.tolist()):
        if plain[row] not in held and plain[row] not in (None, -1):
            lost.setdefault(plain[row], place)
    kept, rest, wanted = kept.copy(), rest.copy(), list(lost.values())
    for place in reversed(range(len(kept))):
        if not wanted:
            break
        label = plain[int(kept[place])]
        if held[label] > 1:
            held[label] -= 1
            other = wanted.pop(0)
            kept[place], rest[other] = rest[other], kept[place]
    return kept, rest


def at_most(data: Any, most: int | None, seed: int = 0, labels: Sequence[Any] | None = None) -> Any:
    """At most so many rows of a map-style data set, drawn by the seed, in the order in which they stand (None: all).

    With ``labels`` a row of each class is among them, as far as there is room.
    """
    if most is not None and most < 1:
        raise InputError(f"At most {most} rows were asked for (max_samples). Give 1 or more, or None for all.")
    if most is None or len(data) <= most:
        return data
    return Subset(data, drawn_numbers(len(data), most, seed, labels).tolist())
