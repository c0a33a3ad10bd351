"""Labels as people store them → whole numbers from 0, with the names of the classes where there are any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Value

from hf_immunize.errors import InputError

__all__ = [
    "Labels",
    "can_be_classes",
    "check_labels",
    "label_values",
    "numbers_as_words",
    "other_word",
    "plain_label",
    "read_labels",
    "whole_numbers",
    "why_unlabelled",
    "with_plain_labels",
]

_HOW_TO_NUMBER = "number the classes: dataset.class_encode_column('label')"
# More words than this, and hardly one of them twice, are captions or file names and no classes.
_FEW_WORDS = 20


@dataclass(frozen=True)
class Labels:
    """Labels as whole numbers, names of the classes in their order (None: no names), and what was done to get them."""

    values: list[int]
    classes: list[str] | None
    notes: tuple[str, ...] = ()


def label_values(data: Dataset, column: str) -> list[Any]:
    """A column as it is stored, without decoding a picture or running a transform."""
    # One slice: walking through the column row by row takes a hundred times as long.
    return data.with_format(None).select_columns([column])[column][:]


def plain_label(label: Any) -> Any:
    """A label as Python's own number, word or tuple, whatever wraps it: NumPy, a tensor, a list."""
    if isinstance(label, (torch.Tensor, np.ndarray, np.generic)):
        label = label.tolist()
    if isinstance(label, float) and label.is_integer():
        return int(label)
    return tuple(label) if isinstance(label, list) else label


def read_labels(data: Dataset, column: str, name: str = "") -> Labels:
    """The labels of a column, whatever form they have, where it can be read in one way only.

    Whole numbers and ``ClassLabel`` are taken as they are; booleans, whole numbers stored as floats or words, and
    one-hot rows become whole numbers; other words become classes in alphabetical order.

    Args:
        data: the data set.
        column: of the labels.
        name: of the data, for messages (``"primary"``).

    Raises:
        ValueError: labels that are missing in part, or that are none: fractions, several classes a picture, captions.
    """
    of = f"the {name} data" if name else "the data"
    values, kind = label_values(data, column), data.features[column]
    classes = list(kind.names) if isinstance(kind, ClassLabel) else None
    missing = sum(map(_is_missing, values))
    if missing:
        words = any(isinstance(one, str) for one in values)
        keep = "bool(one and one.strip())" if words else "one is not None and one >= 0"
        raise InputError(
            f"{missing} of the {len(values)} rows of {of} have no label (column {column!r} is "
            f"{'' if words else '−1 or '}empty there). Leave them out: dataset.filter(lambda one: {keep}, "
            f"input_columns={column!r})."
        )
    return _read(values, classes, column, of)


def _read(values: list[Any], classes: list[str] | None, column: str, of: str) -> Labels:
    if classes is not None or all(isinstance(one, int) and not isinstance(one, bool) for one in values):
        return Labels(values, classes)
    if all(isinstance(one, bool) for one in values):
        return Labels([int(one) for one in values], None, (f"read {column!r} as False = 0 and True = 1",))
    if all(isinstance(one, str) for one in values):
        return _from_words(values, column, of)
    if all(isinstance(one, (list, tuple, np.ndarray)) for one in values):
        return _from_one_hot(values, column, of)
    if all(isinstance(one, (int, float)) for one in values):
        if all(float(one).is_integer() for one in values):
            return Labels([int(one) for one in values], None, (f"read the numbers of {column!r} as whole ones",))
        odd = next(one for one in values if not float(one).is_integer())
        raise InputError(
            f"The labels of {of} must be whole numbers, one an image; column {column!r} holds fractions such as "
            f"{odd!r}. Name another column (label_column)."
        )
    raise InputError(
        f"The labels of {of} must be whole numbers or names, one an image; column {column!r} holds "
        f"{type(values[0]).__name__} such as {str(values[0])[:60]}. Name another column (label_column)."
    )


def numbers_as_words(words: Sequence[Any]) -> int | None:
    """How words that are numbers are written: 0 for plain ones (9, 10), else their one width (09, 10).

    Returns:
        None where they are no such words: numbers themselves, names, or 01 beside 1, which are two codes.
    """
    if not words or not all(isinstance(one, str) for one in words):
        return None
    return next((width for width in (0, len(words[0].strip())) if other_word(words, width) is None), None)


def other_word(words: Sequence[str], width: int) -> str | None:
    """The first word that is no number as :func:`numbers_as_words` found them to be written; None where all are."""
    for word in map(str.strip, words):
        if not word.isdecimal() or (len(word) != width if width else word != str(int(word))):
            return word
    return None


def why_unlabelled(data: Dataset, column: str | None, *, whole_split: bool = False) -> str | None:
    """Why rows cannot be measured on for want of labels, as the end of a sentence; None where they can.

    Args:
        data: the rows.
        column: of the labels.
        whole_split: ask only whether there is any label at all, not whether each can be used.
    """
    if column is None or column not in data.features:
        return "has no column of labels" if column is None else f"has no column {column!r}"
    values = label_values(data, column)
    missing = sum(map(_is_missing, values))
    if missing == len(values):
        return "has no labels (all of them are −1 or empty)"
    if whole_split:
        return None
    if missing:
        return f"has {missing} rows without a label (−1 or empty)"
    try:
        read_labels(data, column)
    except InputError as error:
        return f"has labels that cannot be used: {error}"
    return None


def can_be_classes(data: Dataset, column: str) -> bool:
    """Whether what a column holds can be read as classes, beside rows that have none."""
    values = [one for one in label_values(data, column) if not _is_missing(one)]
    if len(values) <= 2 * _FEW_WORDS and all(isinstance(one, str) for one in values):
        # Too few rows to tell whether words come again; and none at all may be a split without labels.
        return True
    try:
        _read(values, None, column, "the data")
    except InputError:
        return False
    return True


def with_plain_labels(data: Dataset, column: str, name: str = "") -> tuple[Dataset, tuple[str, ...]]:
    """The data set with :func:`read_labels` in the place of a column that holds anything else; and what was done."""
    labels = read_labels(data, column, name)
    if not labels.notes:
        return data, ()
    kind = Value("int64") if labels.classes is None else ClassLabel(names=labels.classes)
    return data.remove_columns(column).add_column(column, labels.values, feature=kind), labels.notes


def whole_numbers(labels: Sequence[Any] | torch.Tensor, name: str) -> torch.Tensor:
    """Labels as a tensor; ValueError where they are no whole numbers, one an image."""
    try:
        values = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):
        odd = next((one for one in labels if not isinstance(one, int)), labels)
        raise InputError(
            f"The labels of the {name} data must be whole numbers, one an image, got {odd!r}. Name another column "
            f"(label_column), or {_HOW_TO_NUMBER}."
        ) from None
    if values.ndim != 1:
        raise InputError(
            f"The labels of the {name} data must be whole numbers, one an image, got {values.shape[-1]} numbers an "
            "image. Of one-hot rows take the position of the one: row.index(1)."
        )
    if values.is_floating_point():
        if not bool((values == values.floor()).all()):
            odd = values[values != values.floor()][0].item()
            raise InputError(f"The labels of the {name} data must be whole numbers, one an image, got {odd:g}.")
        values = values.long()
    return values


def check_labels(labels: Sequence[Any] | torch.Tensor, n_classes: int, name: str) -> None:
    """Raises ValueError where a label lies outside 0 … n_classes − 1 (or is not a whole number)."""
    values = whole_numbers(labels, name)
    if not len(values):
        raise InputError(f"The {name} data have no rows.")
    low, high = int(values.min()), int(values.max())
    if low >= 0 and high < n_classes:
        return
    says = f"The {name} labels run from {low} to {high}, but the model's head has {n_classes} classes (0 to "
    says += f"{n_classes - 1}). "
    if low < 0:
        says += "Rows below 0 have no label as a rule: take another split, or leave them out."
    elif low == 1 and high == n_classes:
        says += "They seem to be counted from 1. Subtract 1: dataset.map(lambda row: {'label': row['label'] - 1})."
    else:
        says += f"Load the model with num_labels={high + 1}, or map the labels."
    raise InputError(says)


def _from_words(values: list[str], column: str, of: str) -> Labels:
    values = [one.strip() for one in values]
    # 01 and 1 are two codes.
    if all(one.isdecimal() for one in values) and len(set(values)) == len(set(map(int, values))):
        return Labels([int(one) for one in values], None, (f"read the words of {column!r} as whole numbers",))
    classes = sorted(set(values))
    if len(classes) > _FEW_WORDS and 2 * len(classes) > len(values):
        raise InputError(
            f"Column {column!r} of {of} holds {len(classes)} different words in {len(values)} rows: hardly classes. "
            f"Name another column (label_column), or {_HOW_TO_NUMBER}."
        )
    numbers = {name: number for number, name in enumerate(classes)}
    note = f"numbered the {len(classes)} names in {column!r} in alphabetical order"
    return Labels([numbers[one] for one in values], classes, (note,))


def _from_one_hot(values: list[Any], column: str, of: str) -> Labels:
    width = len(values[0])
    plain = [[float(number) for number in row] if _is_numbers(row) else [] for row in values]
    if width < 2 or any(len(row) != width or sorted(row) != [0.0] * (width - 1) + [1.0] for row in plain):
        odd = next((row for row in plain if sorted(row) != [0.0] * (len(row) - 1) + [1.0]), plain[0])
        raise InputError(
            f"Column {column!r} of {of} holds lists such as {str(odd or values[0])[:60]}: one class an image was "
            "expected, as a whole number, a name or a one-hot row. Name another column (label_column)."
        )
    return Labels([row.index(1.0) for row in plain], None, (f"read the one-hot rows of {column!r} as whole numbers",))


def _is_numbers(row: Any) -> bool:
    return all(isinstance(one, (bool, int, float, np.number)) for one in row)


def _is_missing(label: Any) -> bool:
    if isinstance(label, str):
        return not label.strip()
    return label is None or (isinstance(label, (int, float)) and not label >= 0)
