"""Class names and labels of data of any kind, and the same data with its classes numbered in a given order."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from datasets import Dataset, IterableDataset
from torch.utils.data import ConcatDataset, Subset

from hf_immunize.data.columns import label_column_of
from hf_immunize.data.images import ImageInputs
from hf_immunize.data.labels import label_values
from hf_immunize.data.names import align_labels, class_names
from hf_immunize.data.streams import StreamedInputs
from hf_immunize.errors import InputError

__all__ = ["labels_of", "names_of", "numbered_alike", "numbered_as"]

#: Keys of a sample under which labels are read, the first that is there.
_LABEL_KEYS = ("labels", "label")
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
        column = label_column_of(data.features or {})
        return class_names(data, column) if column is not None and _gives_what_is_stored(data, column) else None
    names = getattr(data, "classes", None)
    if not isinstance(names, (list, tuple)) or getattr(data, "target_transform", None) is not None:
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
        column = label_column_of(data.features or {})
        return label_values(data, column) if column is not None and _gives_what_is_stored(data, column) else None
    known = getattr(data, "labels", None)
    return getattr(data, "targets", None) if known is None and not getattr(data, "target_transform", None) else known


def numbered_as(data: Any, names: Sequence[str], *, what: str, other: str) -> Any:
    """The same data with the classes numbered in the order of ``names``.

    Raises:
        InputError: a class that is not among them; or another order in data that are model inputs already.
    """
    if isinstance(data, Subset):
        inner = numbered_as(data.dataset, names, what=what, other=other)
        return data if inner is data.dataset else Subset(inner, data.indices)
    if isinstance(data, ConcatDataset):
        parts = [numbered_as(one, names, what=what, other=other) for one in data.datasets]
        same = all(one is part for one, part in zip(data.datasets, parts, strict=True))
        return data if same else ConcatDataset(parts)
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


def numbered_alike(data: Any, like: Any, *, what: str, other: str) -> Any:
    """The same data numbered as other data of the same task, where both name their classes; see :func:`numbered_as`."""
    names = names_of(like)
    return data if names is None else numbered_as(data, names, what=what, other=other)


def _gives_what_is_stored(data: Dataset | IterableDataset, column: str) -> bool:
    # A stream whose rows were changed has the types that somebody gave it anew, or none.
    if isinstance(data, IterableDataset) or data.format["type"] != "custom":
        return True
    stored = label_values(data, column)
    rows = {label: row for row, label in enumerate(stored) if isinstance(label, int)}
    for label, row in itertools.islice(rows.items(), _COMPARED):
        sample = data[row]
        given: Any = next((sample[name] for name in (*_LABEL_KEYS, column) if name in sample), None)
        if not hasattr(given, "__int__") or int(given) != label:
            return False
    return True
