"""Parquet files by split, with the classes of each split in one order, whatever order each file gives them."""

from __future__ import annotations

import glob
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Image,
    concatenate_datasets,
    load_dataset,
)

from hf_immunize.data.names import align_labels, are_numbers, loosely, with_numbers
from hf_immunize.errors import InputError

__all__ = ["check_one_order", "holds_pictures", "patterns", "read_parquet"]

_HOW_TO_CAST = "dataset.cast_column({column!r}, datasets.ClassLabel(names=[…]))"


def read_parquet(groups: Mapping[str, Sequence[Path]], *, streaming: bool = False) -> tuple[Any, tuple[str, ...]]:
    """Splits of parquet files, data sets or streams, and what was done to their labels.

    `datasets` takes the types of the first file for those of all, and with them its names for the numbers of the
    others. Files of one split are numbered in the order of its first; each split keeps its own.

    Raises:
        InputError: files of one split of which only some name their classes.
    """
    kinds = {file: _kinds(file) for files in groups.values() for file in files}
    columns = _numbered_otherwise(kinds.values())
    if not columns:
        return load_dataset("parquet", data_files=patterns(groups), streaming=streaming), ()
    found, notes = {}, []
    for split, files in groups.items():
        runs = [
            list(run)
            for _, run in itertools.groupby(files, lambda file: [_said(kinds[file].get(one)) for one in columns])
        ]
        parts = [load_dataset("parquet", data_files=patterns({split: run}), streaming=streaming)[split] for run in runs]
        features = Features(parts[0].features)
        for column in columns if len(parts) > 1 else ():
            parts, told = _in_one_order(parts, column, [run[0] for run in runs])
            notes += [f"the files of {split!r} {told}"] if told else []
            features[column] = parts[0].features[column]
        found[split] = parts[0] if len(parts) == 1 else _joined(parts, features)
    return found if streaming else DatasetDict(found), tuple(notes)


def check_one_order(files: Iterable[Path], whose: str) -> None:
    """Raises InputError where parquet files that `datasets` reads as one data set number their classes otherwise."""
    kinds = {file: _kinds(file) for file in files}
    for column in _numbered_otherwise(kinds.values()):
        first = next(file for file, one in kinds.items() if column in one)
        other = next(
            file for file, one in kinds.items() if column in one and _said(one[column]) != _said(kinds[first][column])
        )
        raise InputError(
            f"The parquet files of {whose} number the classes of {column!r} otherwise ({first.name} and {other.name}), "
            f"and would be read in the order of one of them. Cast them alike: {_HOW_TO_CAST.format(column=column)}."
        )


def patterns(groups: Mapping[str, Sequence[Path]]) -> dict[str, list[str]]:
    """Files as `datasets` takes them. It reads their names as patterns, so that brackets in them have to be escaped."""
    return {split: [glob.escape(str(file.resolve())) for file in files] for split, files in groups.items()}


def holds_pictures(table: Path) -> bool:
    """Whether a parquet file has a column that may hold pictures."""
    try:
        schema = pyarrow.parquet.read_schema(table)
    except (OSError, pyarrow.ArrowException):
        return False
    kinds = [field.type for field in schema]
    structs = [kind for kind in kinds if pyarrow.types.is_struct(kind)]
    return any(pyarrow.types.is_binary(kind) for kind in kinds) or any(
        "bytes" in {part.name for part in kind} for kind in structs
    )


def _kinds(file: Path) -> Mapping[str, Any]:
    try:
        return Features.from_arrow_schema(pyarrow.parquet.read_schema(file))
    except (OSError, pyarrow.ArrowException):
        # What reads the file says what is wrong with it.
        return {}


def _said(kind: Any) -> tuple[str, ...] | str | None:
    """What a column's type says of its labels: names in an order, or how they are stored."""
    if isinstance(kind, ClassLabel):
        return tuple(kind.names or ())
    dtype = getattr(kind, "dtype", None)
    return "int" if str(dtype).startswith(("int", "uint")) else dtype


def _numbered_otherwise(kinds: Iterable[Mapping[str, Any]]) -> list[str]:
    """Columns that some file has class names for and another has otherwise."""
    said: dict[str, set[Any]] = {}
    for one in kinds:
        for column, kind in one.items():
            said.setdefault(column, set()).add(_said(kind))
    return [column for column, ways in said.items() if len(ways) > 1 and any(isinstance(way, tuple) for way in ways)]


def _in_one_order(parts: list[Any], column: str, files: list[Path]) -> tuple[list[Any], str | None]:
    """Parts of a split with the labels of a column numbered as the first part's, and what was done, if anything."""
    kinds = [part.features.get(column) for part in parts]
    named = [number for number, kind in enumerate(kinds) if isinstance(kind, ClassLabel)]
    if not named:
        return parts, None
    if len(named) < len(kinds):
        other = next(number for number, kind in enumerate(kinds) if not isinstance(kind, ClassLabel))
        if all(are_numbers(kinds[one].names) for one in named) and _said(kinds[other]) == "int":
            return parts, None
        raise InputError(
            f"{files[named[0]].name} names the classes of {column!r}, and {files[other].name} does not. Cast them "
            f"alike: {_HOW_TO_CAST.format(column=column)}."
        )
    names = list(kinds[0].names)
    for kind in kinds[1:]:
        known = set(map(loosely, names))
        names += [one for one in kind.names if one not in names and loosely(one) not in known]
    moved = []
    for part, kind, file in zip(parts, kinds, files, strict=True):
        mapping = align_labels(kind.names, names, data=file.name, other=files[0].name, subset_allowed=True)
        moved.append(part if kind.names == names else _renumbered(part, column, mapping, names))
    if all(kind.names == kinds[0].names for kind in kinds):
        return parts, None
    more = names[len(kinds[0].names) :]
    told = f"number the classes of {column!r} otherwise: brought them into the order of {files[0].name}, by name"
    return moved, told + (f", with {', '.join(more[:5])}{', …' if len(more) > 5 else ''} behind it" if more else "")


def _renumbered(part: Any, column: str, mapping: Sequence[int], names: list[str]) -> Any:
    if isinstance(part, Dataset):
        return with_numbers(part, column, mapping, names)
    features = Features({**part.features, column: ClassLabel(names=names)})
    for name, kind in part.features.items():
        if isinstance(kind, Image):
            # Nothing is decoded to number a row.
            part = part.cast_column(name, Image(decode=False))

    def move(label: int | None) -> dict[str, Any]:
        return {column: label if label is None or label < 0 else mapping[label]}

    # Types that map is given count for good: no cast behind it would have the pictures decoded.
    return part.map(move, input_columns=[column]).cast(features)


def _joined(parts: list[Any], features: Features) -> Any:
    """Parts one after another, with columns in the order of ``features`` and of its types."""
    if all(set(part.features) == set(features) for part in parts):
        parts = [part.select_columns(list(features)).cast(features) for part in parts]
    return concatenate_datasets(parts)
