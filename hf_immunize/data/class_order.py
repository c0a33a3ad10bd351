"""Class names and labels of data of any kind, and the same data with its classes numbered in a given order."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from torch.utils.data import ConcatDataset, Subset
from transformers.utils import logging

from hf_immunize.data.collate import LABEL_KEYS, label_of
from hf_immunize.data.columns import label_column_of
from hf_immunize.data.images import ImageInputs
from hf_immunize.data.labels import label_values
from hf_immunize.data.names import align_labels, alike, are_numbers, class_names, one_spelling, only_one_names
from hf_immunize.data.random_numbers import undisturbed_random_numbers
from hf_immunize.data.streams import StreamedInputs, first_samples
from hf_immunize.errors import InputError

__all__ = [
    "in_one_order",
    "in_one_spelling",
    "is_labelled",
    "labels_of",
    "names_of",
    "numbered_alike",
    "numbered_as",
    "numbers_for_names",
]

logger = logging.get_logger(__name__)

# Rows, of as many classes, that tell whether a transform of the data numbers them otherwise.
_COMPARED = 4


def names_of(data: Any) -> list[str] | None:
    """Names of the classes, in the order of the numbers that the data give.

    Those of :class:`hf_immunize.ImageInputs` and streams, of a `Subset` or `ConcatDataset` of such, of rows of
    `datasets` that give model inputs already, and of data sets that name them as torchvision's do (``classes``).

    Returns:
        None where nothing is named, or where a transform of the data numbers the classes in a way of its own.
    """
    if isinstance(data, (ImageInputs, StreamedInputs)):
        return data.classes
    if isinstance(data, Subset):
        return names_of(data.dataset)
    if isinstance(data, ConcatDataset):
        return next(filter(None, map(names_of, data.datasets)), None)
    if isinstance(data, (Dataset, IterableDataset)):
        column = _label_column(data)
        return class_names(data, column) if column is not None and _gives_what_is_stored(data, column) else None
    names = getattr(data, "classes", None)
    if not isinstance(names, (list, tuple)) or getattr(data, "target_transform", None) is not None:
        return None
    held = _held_labels(data)
    if held is not None and not _gives_its_labels(data, held):
        return None
    # ImageNet of torchvision has all words of a class as a tuple.
    said = [", ".join(one) if isinstance(one, tuple) else one for one in names]
    return said if said and all(isinstance(one, str) for one in said) else None


def labels_of(data: Any) -> Sequence[Any] | None:
    """All labels, where they can be read without a picture, of the kinds of data that :func:`names_of` knows."""
    if isinstance(data, Subset):
        inner = labels_of(data.dataset)
        return None if inner is None else [inner[index] for index in data.indices]
    if isinstance(data, ConcatDataset):
        parts = [one for one in map(labels_of, data.datasets) if one is not None]
        return list(itertools.chain.from_iterable(parts)) if len(parts) == len(data.datasets) else None
    if isinstance(data, Dataset):
        column = _label_column(data)
        return label_values(data, column) if column is not None and _gives_what_is_stored(data, column) else None
    if isinstance(data, (ImageInputs, StreamedInputs)):
        return getattr(data, "labels", None)
    found = None if getattr(data, "target_transform", None) else _held_labels(data)
    return found if found is not None and _gives_its_labels(data, found) else None


def _held_labels(data: Any) -> Any:
    """Numbers that a data set of `torch` keeps beside its samples, as torchvision's do."""
    known = (getattr(data, name, None) for name in ("labels", "targets"))
    # What else a data set of the user's own calls so: names, a table, rows of attributes.
    return next((one for one in known if _is_a_number_each(one, data)), None)


# Samples may be augmented, which draws from the caller's generators.
@undisturbed_random_numbers()
def _gives_its_labels(data: Any, held: Sequence[Any]) -> bool:
    """Whether samples have the labels that are kept beside them; what the samples say counts."""
    labels, rows = np.unique(np.asarray(held), return_index=True)
    for label, row in zip(labels[:_COMPARED].tolist(), rows[:_COMPARED].tolist(), strict=True):
        try:
            given = label_of(data[row])
            differs = given is not None and int(given) != label
        except Exception:
            # Whoever needs this row says what is wrong with it.
            continue
        if differs:
            logger.warning_once(
                f"{type(data).__name__} keeps the label {label} for row {row}, and the sample has {int(given)}: the "
                "samples' labels count, without names."
            )
            return False
    return True


def _is_a_number_each(labels: Any, data: Any) -> bool:
    if isinstance(labels, (torch.Tensor, np.ndarray)):
        return labels.ndim == 1 and len(labels) == len(data) and np.asarray(labels).dtype.kind in "iu"
    return (
        isinstance(labels, Sequence) and len(labels) == len(data) and all(isinstance(one, Integral) for one in labels)
    )


def numbered_as(data: Any, names: Sequence[str], *, what: str, other: str) -> Any:
    """The same data with the classes numbered in the order of ``names``.

    Raises:
        InputError: a class that is not among them; or another order in data that are model inputs already.
    """
    if isinstance(data, (Subset, ConcatDataset)):
        return _in_parts(data, lambda part: numbered_as(part, names, what=what, other=other))
    own = names_of(data)
    if own is None or own == list(names):
        return data
    if isinstance(data, (ImageInputs, StreamedInputs)):
        return data.with_classes(names, what=what, other=other)
    mapping = align_labels(own, names, data=what, other=other, subset_allowed=True)
    moved = next((at for at, number in enumerate(mapping) if at != number), None)
    if moved is None:
        return data
    raise InputError(
        f"{what} and {other} number the same classes otherwise: {own[moved]!r} is {moved} in the data and "
        f"{mapping[moved]} in {other}. Number them alike first: "
        "dataset.align_labels_with_mapping({name: number, …}, 'label'), or target_transform=… in torchvision."
    )


def in_one_order(data: Any, *, what: str) -> Any:
    """The same data with the parts of a `ConcatDataset` numbered as the one that names most classes.

    Raises:
        InputError: as :func:`numbered_as`; a part with numbers that could name its classes beside one that does.
    """
    if isinstance(data, Subset):
        inner = in_one_order(data.dataset, what=what)
        return data if inner is data.dataset else Subset(inner, data.indices)
    if not isinstance(data, ConcatDataset):
        return data
    named = [names for part in data.datasets if (names := names_of(in_one_order(part, what=what))) is not None]
    names = max(named, key=len, default=None)
    for part in data.datasets:
        if names is None or are_numbers(names) or names_of(part) is not None or not is_labelled(part):
            continue
        if _could_name(part):
            raise only_one_names(f"some parts of {what}", "others")
        logger.warning_once(
            f"{what}: {type(part).__name__} has numbers where other parts name their classes: took 0 for {names[0]!r} "
            "and so on"
        )
    return data if names is None else numbered_as(data, names, what=what, other="another part of them")


def numbered_alike(data: Any, like: Any, *, what: str, other: str) -> Any:
    """The same data numbered as other data of the same task, where both name their classes; see :func:`numbered_as`.

    Raises:
        InputError: as :func:`numbered_as`, :func:`numbers_for_names` and :func:`in_one_spelling` do.
    """
    told = numbers_for_names(data, like, what=what, other=other)
    if told is not None:
        logger.warning_once(told)
    names = names_of(like)
    moved = data if names is None else numbered_as(data, names, what=what, other=other)
    return in_one_spelling(moved, like, what=what, other=other)


def numbers_for_names(data: Any, like: Any, *, what: str, other: str) -> str | None:
    """Where one of two data sets of a task names its classes and the other has numbers: refused, or said.

    Returns:
        a sentence where the numbers stand in data that cannot name them; None where there is nothing to say.

    Raises:
        InputError: the numbers stand in a column of `datasets`, which could name them.
    """
    sides = {what: data, other: like}
    named = {side: names for side, one in sides.items() if (names := names_of(one)) is not None}
    if len(named) != 1:
        return None
    ((of, names),) = named.items()
    others = other if of == what else what
    if are_numbers(names) or not is_labelled(sides[others]):
        return None
    if _could_name(sides[others]):
        raise only_one_names(of, others)
    told = ", ".join(f"{number} for {name!r}" for number, name in enumerate(names[:2]))
    return f"{others} have numbers where {of} name their classes: took {told} and so on"


def in_one_spelling(data: Any, like: Any, *, what: str, other: str) -> Any:
    """The same data where both spell each class alike; see :func:`hf_immunize.data.names.one_spelling`.

    Raises:
        InputError: one spelling in the rows to train on and two in ``data``, or data that are model inputs already.
    """
    names = names_of(data) or []
    if data is like or not alike(names) or names_of(like) != names:
        return data
    given, known = labels_of(data), labels_of(like)
    if given is None or known is None:
        return data
    mapping = one_spelling(names, map(int, known), map(int, given), what=what, other=other)
    moved = {one: number for one, number in enumerate(mapping) if one != number}
    if not moved:
        return data
    told = ", ".join(f"{names[one]!r} for {names[number]!r}" for one, number in moved.items())

    def change(part: Any) -> Any:
        if not isinstance(part, ImageInputs):
            raise InputError(f"{what} and {other} spell a class otherwise ({told}). Give it one name in both.")
        twin = copy.copy(part)
        twin.labels = [mapping[label] for label in part.labels or ()]
        twin.notes = (*part.notes, f"took {told} of {other}: the names differ in case or spaces alone")
        return twin

    return _in_parts(data, change)


def _in_parts(data: Any, change: Callable[[Any], Any]) -> Any:
    """Data whose parts are changed; the same object where none of them is."""
    if isinstance(data, Subset):
        inner = _in_parts(data.dataset, change)
        return data if inner is data.dataset else Subset(inner, data.indices)
    if isinstance(data, ConcatDataset):
        parts = [_in_parts(one, change) for one in data.datasets]
        same = all(one is part for one, part in zip(data.datasets, parts, strict=True))
        return data if same else ConcatDataset(parts)
    return change(data)


def _could_name(data: Any) -> bool:
    """Whether the labels stand in a column of `datasets`, whose type can name them."""
    if isinstance(data, Subset):
        return _could_name(data.dataset)
    if isinstance(data, ConcatDataset):
        return any(map(_could_name, data.datasets))
    if isinstance(data, (Dataset, IterableDataset)):
        column = _label_column(data)
        return column is not None and _gives_what_is_stored(data, column)
    return isinstance(data, (ImageInputs, StreamedInputs))


def is_labelled(data: Any) -> bool:
    """Whether the rows have labels, of a data set of any kind; of one that does not say, the first row is read."""
    if isinstance(data, (ImageInputs, StreamedInputs)):
        return data.label_column is not None
    few = first_samples(data, 1)
    return bool(few) and label_of(few[0]) is not None


def _label_column(data: Dataset | IterableDataset) -> str | None:
    """The column that labels of model inputs are read of when they are made a batch, else the one of a usual name."""
    features = data.features or {}
    return next((key for key in LABEL_KEYS if key in features), None) or label_column_of(features, data=data)


@undisturbed_random_numbers()
def _gives_what_is_stored(data: Dataset | IterableDataset, column: str) -> bool:
    # A stream whose rows were changed has the types that somebody gave it anew, or none.
    if isinstance(data, IterableDataset) or data.format["type"] != "custom":
        return True
    stored = label_values(data, column)
    rows = {label: row for row, label in enumerate(stored) if isinstance(label, int)}
    for label, row in itertools.islice(rows.items(), _COMPARED):
        sample = data[row]
        given: Any = next((sample[name] for name in (*LABEL_KEYS, column) if name in sample), None)
        if not hasattr(given, "__int__") or int(given) != label:
            return False
    return True
