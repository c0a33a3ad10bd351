"""Names before numbers: the same classes in another order are brought into one, other classes are refused."""

from __future__ import annotations

import itertools
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence

from datasets import ClassLabel, Dataset, IterableDataset

from hf_immunize.data.labels import label_values
from hf_immunize.errors import InputError

__all__ = [
    "align_labels",
    "alike",
    "are_numbers",
    "class_names",
    "loosely",
    "one_spelling",
    "only_one_names",
    "renumbered",
    "with_numbers",
]

_SHOWN = 5


def class_names(data: Dataset | IterableDataset, column: str | None) -> list[str] | None:
    """Names of the classes in the order of the labels, where a column has them."""
    kind = (data.features or {}).get(column) if column is not None else None
    return list(kind.names) if isinstance(kind, ClassLabel) and kind.names else None


def align_labels(
    data_names: Sequence[str],
    other_names: Sequence[str],
    *,
    data: str = "the data",
    other: str = "the model",
    subset_allowed: bool = False,
) -> list[int]:
    """For each label of the data, the label that the other side gives to the class of the same name.

    Names are compared as they stand, and where that fails without regard to case, spaces, ``_``, ``-`` and how
    accents are written.

    Args:
        data_names: names of the classes in the order of the data's labels.
        other_names: names of the classes in the order of the other side's labels, for example a model's.
        data: what the former belong to, for messages.
        other: what the latter belong to.
        subset_allowed: names that only the other side has are no mistake.

    Returns:
        ``mapping[label of the data] = label of the other side``.

    Raises:
        ValueError: a name that the other side lacks (or has only there), or a name given twice.

    Example:
        >>> align_labels(["dog", "cat"], ["cat", "dog"])
        [1, 0]
    """
    data_names, other_names = list(data_names), list(other_names)
    for names, whose in ((data_names, data), (other_names, other)):
        twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
        if twice:
            raise InputError(f"{whose} has a class name twice: {_some(twice)}. Give each class a name of its own.")
    if set(data_names) - set(other_names):
        loose_data, loose_other = [loosely(one) for one in data_names], [loosely(one) for one in other_names]
        # Only where both sides stay apart without case and punctuation may names be read that loosely.
        apart = len(set(loose_data)) == len(loose_data) and len(set(loose_other)) == len(loose_other)
        if apart and not set(loose_data) - set(loose_other):
            data_names, other_names = loose_data, loose_other
    known, used = set(other_names), set(data_names)
    unknown = [name for name in data_names if name not in known]
    unused = [name for name in other_names if name not in used]
    if unknown or (unused and not subset_allowed):
        only = [f"only {data}: {_some(unknown)}"] if unknown else []
        only += [f"only {other}: {_some(unused)}"] if unused else []
        raise InputError(
            f"{data} and {other} name different classes ({'; '.join(only)}). Give both the same class names, or give "
            "the model a new head for the classes of the data."
        )
    position = {name: number for number, name in enumerate(other_names)}
    return [position[name] for name in data_names]


def alike(names: Sequence[str]) -> list[str]:
    """Names that differ from another one in case, spaces, ``_``, ``-`` or how accents are written alone."""
    return [names[number] for number in sorted(itertools.chain.from_iterable(_twins(names)))]


def one_spelling(
    names: Sequence[str], train: Iterable[int], evaluation: Iterable[int], *, what: str, other: str
) -> list[int]:
    """For each class of rows to measure on, the one of the rows to train on that it is, if in another spelling.

    Folders ``train/Cat`` and ``test/cat`` are two classes for `datasets`, and one for whoever made them. Classes that
    the rows to train on tell apart (``A`` and ``a`` among letters) are two.

    Args:
        names: of the classes of both.
        train: labels of the rows to train on.
        evaluation: labels of the rows to measure on.
        what: the latter, for messages.
        other: the former.

    Returns:
        ``mapping[label to measure on] = label to train on``.

    Raises:
        InputError: rows to measure on of two spellings, of which those to train on have one.
    """
    mapping, trained, judged = list(range(len(names))), set(train), set(evaluation)
    for twins in _twins(names):
        ours, theirs = trained.intersection(twins), judged.intersection(twins)
        if len(ours) != 1 or theirs <= ours:
            continue
        if len(theirs) > 1:
            raise InputError(
                f"{what} have rows of {_some([names[one] for one in sorted(theirs)])}, and {other} have "
                f"{names[min(ours)]!r} alone: one class in two spellings, or two classes. Rename one of them (or its "
                "folder), or leave out the rows of the class that is not trained on."
            )
        mapping[theirs.pop()] = ours.pop()
    return mapping


def are_numbers(names: Sequence[str]) -> bool:
    """Whether each class is called by its own number, as MNIST's are: numbers without names mean the same."""
    return list(names) == [str(number) for number in range(len(names))]


def only_one_names(named: str, others: str) -> InputError:
    """What to say where one of two data sets of a task names its classes, and the other could and does not."""
    return InputError(
        f"{named} name their classes, and {others} have numbers, which may mean anything. Cast both alike: "
        "dataset.cast_column('label', ClassLabel(names=[…]))."
    )


def renumbered(
    data: Dataset, column: str, names: Sequence[str], *, what: str = "the data", other: str = "the model"
) -> Dataset:
    """The data set with the labels of a ``ClassLabel`` column numbered in another order of the same names.

    Rows without a label (below 0, None) stay without one. Classes that the data do not have may stand among ``names``.

    Raises:
        ValueError: the column names no classes, or one that is not among ``names``.
    """
    own = class_names(data, column)
    if own is None:
        raise InputError(
            f"Column {column!r} of {what} has numbers and no class names. Name them: dataset.cast_column({column!r}, "
            "datasets.ClassLabel(names=[…]))."
        )
    if own == list(names):
        return data
    mapping = align_labels(own, names, data=what, other=other, subset_allowed=True)
    return with_numbers(data, column, mapping, names)


def with_numbers(data: Dataset, column: str, mapping: Sequence[int], names: Sequence[str]) -> Dataset:
    """The data set with other numbers in a column of labels (``mapping[label]``), and the names of these."""
    moved = [one if one is None or one < 0 else mapping[one] for one in label_values(data, column)]
    return data.remove_columns(column).add_column(column, moved, feature=ClassLabel(names=list(names)))


def _twins(names: Sequence[str]) -> list[list[int]]:
    """Numbers of classes whose names are hardly two."""
    groups: dict[str, list[int]] = defaultdict(list)
    for number, name in enumerate(names):
        groups[loosely(name)].append(number)
    return [numbers for numbers in groups.values() if len(numbers) > 1]


def loosely(name: str) -> str:
    """A name without regard to case, spaces, ``_``, ``-`` and how accents are written."""
    # macOS writes the accents of a folder's name apart from the letters.
    plain = unicodedata.normalize("NFKC", str(name)).casefold()
    return " ".join(plain.replace("_", " ").replace("-", " ").split())


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
