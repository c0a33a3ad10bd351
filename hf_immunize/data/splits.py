"""One rule for which split is trained on and which is measured on, wherever the user named none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import Dataset, ReadInstruction, concatenate_datasets

from hf_immunize.data.draw import drawn_numbers, with_each_class
from hf_immunize.data.labels import label_values
from hf_immunize.data.split_words import evaluation_names, names_of_split
from hf_immunize.data.streams import DrawnSplits, is_stream
from hf_immunize.errors import InputError

__all__ = ["Taken", "draw_rows", "evaluation_split", "hold_out", "take_split", "training_name", "training_split"]

_FEWEST_TO_DIVIDE = 10


@dataclass(frozen=True)
class Taken:
    """Rows of a split, or its stream: ``rows``, the ``name`` as it was asked for, and where they lie in which split.

    Attributes:
        rows: the data set, or a stream of it.
        name: for example ``"train"`` or ``"train[:10%]+validation"``.
        ranges: (split, first row, row behind the last) for each part.
        notes: each choice that was made for the user, as a sentence.
    """

    rows: Any
    name: str
    ranges: tuple[tuple[str, int, int], ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def splits(self) -> set[str]:
        """The splits that the rows come from."""
        return {split for split, _, _ in self.ranges}

    def shares_rows_with(self, other: Taken) -> bool:
        """Whether some row is in both."""
        return any(
            one == two and max(low, bottom) < min(high, top)
            for one, low, high in self.ranges
            for two, bottom, top in other.ranges
        )


def take_split(splits: Mapping[str, Any], asked: str, source: str) -> Taken:
    """Rows of a split, of a slice of it (``train[:10%]``) or of several (``train+validation``).

    Args:
        splits: by name.
        asked: as :func:`datasets.load_dataset` reads it.
        source: what the splits belong to, for messages.

    Raises:
        ValueError: no such split, a slice that cannot be read, or no row in it.
    """
    ranges: tuple[tuple[str, int, int], ...]
    if asked in splits:
        rows = splits[asked]
        # A stream does not say where it ends.
        ranges = ((asked, 0, sys.maxsize if is_stream(rows) else len(rows)),)
    else:
        names = ", ".join(splits)
        if isinstance(splits, DrawnSplits) or any(map(is_stream, splits.values())):
            raise InputError(
                f"{source!r} has the splits {names}; not {asked!r}. Name one of them: a stream has no slices or sums "
                "(at most so many rows: max_train_samples, max_eval_samples)."
            )
        try:
            parts = ReadInstruction.from_spec(asked).to_absolute({name: len(rows) for name, rows in splits.items()})
        except (ValueError, AssertionError) as error:
            raise InputError(
                f"{source!r} has the splits {names}; not {asked!r}. Name one of them, a slice of one (train[:10%]) or "
                "a sum (train+validation)."
            ) from error
        ranges = tuple((part.splitname, part.from_, part.to) for part in parts if part.from_ < part.to)
    if not any(low < high for _, low, high in ranges):
        raise InputError(f"Split {asked!r} of {source!r} is empty. Choose another split.")
    if asked in splits:
        return Taken(splits[asked], asked, ranges)
    pieces = [_cut(splits[name], low, high) for name, low, high in ranges]
    try:
        rows = pieces[0] if len(pieces) == 1 else concatenate_datasets(pieces)
    except ValueError as error:
        raise InputError(f"The parts of {asked!r} of {source!r} have different columns. Name one of them.") from error
    return Taken(rows, asked, ranges)


def training_split(splits: Mapping[str, Any], asked: str | None, source: str) -> Taken:
    """The split to train on: the one that was named, else ``train`` in whatever words, else the only one.

    Raises:
        ValueError: several, none called ``train`` and none named; or as :func:`take_split`.
    """
    name = training_name(splits) if asked is None else asked
    if name is not None:
        taken = take_split(splits, name, source)
        if asked is not None or name == "train":
            return taken
        which = f"the only split, {name!r}," if len(splits) == 1 else f"the split {name!r}"
        return Taken(taken.rows, name, taken.ranges, (f"took {which} to train on",))
    raise InputError(f"{source!r} has the splits {', '.join(splits)}; none was named. Name one of them to train on.")


def training_name(splits: Iterable[str]) -> str | None:
    """The name of the split to train on where the user named none; None where several could be meant."""
    names = list(splits)
    called = names_of_split(names, "train")
    if "train" in names or len(called) == 1:
        return called[0]
    return names[0] if len(names) == 1 else None


def evaluation_split(
    splits: Mapping[str, Any],
    source: str,
    *,
    apart_from: set[str] | None = None,
    why_unfit: Callable[[Dataset], str | None] = lambda rows: None,
    unfit_allowed: bool = False,
) -> Taken | None:
    """The split to measure on where none was named, with a note; None where no split is fit for it.

    The first of those whose names mean it (``test`` and its kin, then ``validation`` and its own) that holds rows and
    labels.

    Args:
        splits: by name.
        source: what the splits belong to, for messages.
        apart_from: splits that are trained on.
        why_unfit: says of rows why they cannot be measured on (``"has no labels"``), or None.
        unfit_allowed: take the first one in spite of that where no other is there.
    """
    passed: list[str] = []
    first_unfit: str | None = None
    for name in evaluation_names(splits):
        if name in (apart_from or set()):
            continue
        reason = "is empty" if len(splits[name]) == 0 else why_unfit(splits[name])
        if reason is None:
            return _noted(splits, name, source, passed)
        if len(splits[name]):
            first_unfit = first_unfit or name
        passed.append(f"{name!r} {reason}")
    if first_unfit is not None and unfit_allowed:
        return _noted(splits, first_unfit, source, [])
    return None


def hold_out(train: Taken, seed: int, source: str, label_column: str | None = None) -> tuple[Dataset, Dataset, str]:
    """Four fifths and one fifth of the rows, drawn by the seed, and a description of the fifth.

    No class of the fifth is without a row among the four fifths, where a column of labels is given.

    Raises:
        ValueError: too few rows to divide.
    """
    if len(train.rows) < _FEWEST_TO_DIVIDE:
        raise InputError(
            f"{source!r} has {len(train.rows)} rows and no split to evaluate on. Name one (…_eval_split), or give "
            f"{_FEWEST_TO_DIVIDE} rows or more: a fifth of them is then held out."
        )
    drawn = Dataset.from_dict({"row": range(len(train.rows))}).train_test_split(test_size=0.2, seed=seed)
    kept, held = (np.asarray(drawn[part]["row"][:]) for part in ("train", "test"))
    if label_column is not None:
        kept, held = with_each_class(kept, held, label_values(train.rows, label_column))
    return train.rows.select(kept), train.rows.select(held), f"a fifth of {train.name}, drawn by seed {seed}"


def draw_rows(rows: Dataset, at_most: int | None, seed: int, label_column: str | None = None) -> Dataset:
    """At most so many rows, drawn by the seed, in the order in which they stood; with a column of labels, each class.

    Raises:
        ValueError: fewer than one.
    """
    if at_most is None or len(rows) <= at_most:
        return rows
    if at_most < 1:
        raise InputError(f"At least one row has to be kept, got a maximum of {at_most}.")
    labels = None if label_column is None else label_values(rows, label_column)
    return rows.select(drawn_numbers(len(rows), at_most, seed, labels))


def _cut(rows: Dataset, low: int, high: int) -> Dataset:
    return rows if (low, high) == (0, len(rows)) else rows.select(range(low, high))


def _noted(splits: Mapping[str, Any], name: str, source: str, passed: list[str]) -> Taken:
    taken = take_split(splits, name, source)
    since = f", since {' and '.join(passed)}" if passed else ""
    return Taken(taken.rows, name, taken.ranges, (f"took the split {name!r} to measure on{since}",))
