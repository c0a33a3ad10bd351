"""The rows of one task, by whatever name the user gave: what is trained on, what is measured on, and how both came."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datasets import ClassLabel, Dataset, IterableDataset

from hf_immunize.data.columns import Columns, LabelUse, choose_columns
from hf_immunize.data.sources import Source, load_source
from hf_immunize.data.splits import (
    EVALUATION_SPLITS,
    Taken,
    draw_rows,
    evaluation_split,
    hold_out,
    take_split,
    training_split,
)
from hf_immunize.errors import InputError, InputTypeError

__all__ = ["ImageTask", "load_evaluation", "load_task"]

_AS_AN_OBJECT = "data passed as an object"


@dataclass(frozen=True)
class ImageTask:
    """Training and evaluation rows of one task, and where they came from.

    Attributes:
        train: raw pictures to train on.
        evaluation: raw pictures to measure on; no row of ``train`` is among them.
        name: the Hub id without its revision, the base name of a folder or file, or a description.
        revision: the commit on the Hub that was loaded, None where there is none or it cannot be known.
        config: the configuration of a Hub data set.
        split: what is trained on, for example ``"train"``.
        eval_split: what is measured on, for example ``"validation"`` or ``"a fifth of train, drawn by seed 3"``.
        image_column: of the pictures, in both.
        label_column: of the labels, in both; None where there is none or it is not used.
        classes: names of the classes in the order of the labels, where the data name them.
        notes: each choice that was made for the user, as a sentence.
    """

    train: Dataset
    evaluation: Dataset
    name: str
    revision: str | None
    config: str | None
    split: str
    eval_split: str
    image_column: str
    label_column: str | None
    classes: list[str] | None
    notes: tuple[str, ...] = ()


def load_task(
    given: str | os.PathLike[str] | Dataset | Mapping[str, Dataset] | tuple[Dataset, Dataset],
    *,
    split: str | None = None,
    eval_split: str | None = None,
    config: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    labels: LabelUse = "needed",
    seed: int = 0,
    token: str | bool | None = None,
    max_train_samples: int | None = None,
    max_eval_samples: int | None = None,
) -> ImageTask:
    """Training and evaluation rows of a task.

    Trained on is the split that is named, else ``train``, else the only one. Measured on is the one that is named, else
    ``test``, else ``validation``, ``valid``, ``val`` or ``dev``, and where labels are needed never one without labels;
    where none of these is there, a fifth of the training rows, drawn by the seed and taken out of them.

    Args:
        given: a Hub id, folder or file as :func:`load_source` reads it, one data set, a mapping of splits, or a pair
            (training rows, evaluation rows).
        split: to train on; a slice (``train[:10%]``) or a sum (``train+validation``) will do.
        eval_split: to measure on, likewise.
        config: the configuration of a Hub data set that has several.
        image_column: found by type and name if not given.
        label_column: likewise.
        labels: ``"needed"``, ``"optional"`` (taken where they are to be had), ``"unused"`` (not read).
        seed: of what is drawn.
        token: of the Hub.
        max_train_samples: at most so many rows to train on, drawn by the seed.
        max_eval_samples: at most so many rows to measure on, likewise.

    Raises:
        ValueError: nothing there, no such split or column, the same rows for both, too few rows, labels that are needed
            and not there.
        TypeError: a stream, or something else that is no data set.
        ConnectionError: the Hub cannot be reached.
    """
    asked = (image_column, label_column, labels)
    if isinstance(given, (tuple, list)):
        return _of_pair(given, asked, (split, eval_split, config), seed, max_train_samples, max_eval_samples)
    source = _source(given, config, token)
    if eval_split is not None and eval_split == split:
        raise InputError(_serves_both(eval_split, source.name))
    train = training_split(source.splits, split, source.name)
    columns = choose_columns(train.rows, image_column, label_column, labels=labels)
    _check_labelled(train.rows, asked, train.name, source.name)
    notes = [*source.notes, *train.notes, *columns.notes]
    if eval_split is not None:
        evaluation = take_split(source.splits, eval_split, source.name)
        if evaluation.shares_rows_with(train):
            raise InputError(_serves_both(eval_split, source.name))
        _check_labelled(evaluation.rows, asked, eval_split, source.name)
    else:
        evaluation = evaluation_split(
            source.splits,
            source.name,
            apart_from=train.splits,
            why_unfit=lambda rows: _why_unlabelled(rows, asked),
            unfit_allowed=labels == "optional",
        )
        notes += evaluation.notes if evaluation else ()
    if evaluation is not None:
        rows, other, described = train.rows, evaluation.rows, evaluation.name
    else:
        rows, other, described = hold_out(train, seed, source.name)
        notes.append(f"held out {described}, to measure on")
    return _task(source, rows, other, train.name, described, columns, notes, seed, max_train_samples, max_eval_samples)


def load_evaluation(
    given: str | os.PathLike[str] | Dataset | Mapping[str, Dataset] | tuple[Dataset, Dataset],
    *,
    split: str | None = None,
    config: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    labels: LabelUse = "optional",
    seed: int = 0,
    token: str | bool | None = None,
    max_samples: int | None = None,
) -> ImageTask:
    """Rows to measure on alone: ``test``, else ``validation`` and its kin, else ``train`` or the only split.

    What was taken stands in the notes. ``train`` and ``evaluation`` of the result are one and the same object, and so
    are ``split`` and ``eval_split``. Arguments and errors are those of :func:`load_task`; of a pair the second is
    taken.
    """
    asked = (image_column, label_column, labels)
    if isinstance(given, (tuple, list)):
        given = _pair(given, (split, config))[1]
        split = None
    source = _source(given, config, token)
    notes = list(source.notes)
    if split is not None:
        taken: Taken | None = take_split(source.splits, split, source.name)
        _check_labelled(taken.rows, asked, split, source.name)
    else:
        taken = evaluation_split(
            source.splits,
            source.name,
            why_unfit=lambda rows: _why_unlabelled(rows, asked),
            unfit_allowed=labels == "optional" and not set(source.splits) - set(EVALUATION_SPLITS),
        )
        if taken is None:
            taken = training_split(source.splits, None, source.name)
            _check_labelled(taken.rows, asked, taken.name, source.name)
            if not isinstance(given, Dataset):
                notes.append(f"took the split {taken.name!r} to measure on, since no other is fit for it")
        else:
            notes += taken.notes
    columns = choose_columns(taken.rows, image_column, label_column, labels=labels)
    notes += columns.notes
    task = _task(source, taken.rows, taken.rows, taken.name, taken.name, columns, notes, seed, None, max_samples)
    return ImageTask(**{**vars(task), "train": task.evaluation})


def _of_pair(
    given: Any, asked: tuple[Any, ...], named: tuple[Any, ...], seed: int, max_train: int | None, max_eval: int | None
) -> ImageTask:
    train, evaluation = _pair(given, named)
    columns = choose_columns(train, asked[0], asked[1], labels=asked[2])
    source = Source({"train": train}, _AS_AN_OBJECT, None, None)
    for role, rows in (("train", train), ("evaluation", evaluation)):
        if not len(rows):
            raise InputError(f"The {role} rows of the pair are empty.")
        _check_labelled(rows, asked, role, source.name)
    return _task(
        source, train, evaluation, "train", "rows passed to measure on", columns, [], seed, max_train, max_eval
    )


def _pair(given: Any, named: tuple[Any, ...]) -> tuple[Dataset, Dataset]:
    if len(given) != 2 or not all(isinstance(one, Dataset) for one in given):
        kinds = ", ".join(type(one).__name__ for one in given)
        raise InputTypeError(f"A pair of data sets (training rows, evaluation rows) was expected, got ({kinds}).")
    if any(one is not None for one in named):
        raise InputError("A pair of data sets has no splits or configurations to choose from. Leave their names away.")
    return tuple(given)


def _source(given: Any, config: str | None, token: str | bool | None) -> Source:
    if isinstance(given, (str, os.PathLike)):
        return load_source(given, config=config, token=token)
    if config is not None:
        raise InputError(f"The configuration {config!r} was named for data that are loaded already. Leave it away.")
    if isinstance(given, Dataset):
        return Source({"train": given}, _AS_AN_OBJECT, None, None)
    if isinstance(given, Mapping) and given and all(isinstance(one, Dataset) for one in given.values()):
        return Source(dict(given), _AS_AN_OBJECT, None, None)
    kinds = {type(one).__name__ for one in given.values()} if isinstance(given, Mapping) else {type(given).__name__}
    if isinstance(given, IterableDataset) or "IterableDataset" in kinds:
        raise InputTypeError(
            "A stream (IterableDataset) has no length and no order to draw rows from. Turn a part of it into a data "
            "set first: Dataset.from_list(list(stream.take(10_000)), features=stream.features)."
        )
    raise InputTypeError(
        "A data set was expected: its Hub id, a folder, a datasets.Dataset, a DatasetDict or a pair (training rows, "
        f"evaluation rows); got {', '.join(sorted(kinds)) or 'nothing'}."
    )


def _task(
    source: Source,
    train: Dataset,
    evaluation: Dataset,
    split: str,
    eval_split: str,
    columns: Columns,
    notes: list[str],
    seed: int,
    max_train: int | None,
    max_eval: int | None,
) -> ImageTask:
    for column in filter(None, (columns.image, columns.label)):
        if column not in evaluation.features:
            raise InputError(
                f"The rows to measure on ({eval_split}) have no column {column!r}; their columns are "
                f"{', '.join(evaluation.features)}. Name the columns alike in both."
            )
    kind = train.features[columns.label] if columns.label else None
    return ImageTask(
        train=draw_rows(train, max_train, seed),
        evaluation=draw_rows(evaluation, max_eval, seed),
        name=source.name,
        revision=source.revision,
        config=source.config,
        split=split,
        eval_split=eval_split,
        image_column=columns.image,
        label_column=columns.label,
        classes=list(kind.names) if isinstance(kind, ClassLabel) else None,
        notes=tuple(notes),
    )


def _why_unlabelled(rows: Dataset, asked: tuple[Any, ...]) -> str | None:
    """Why rows cannot be measured on for want of labels; None where they can."""
    image_column, label_column, labels = asked
    if labels == "unused":
        return None
    if label_column is not None and label_column not in rows.features:
        return f"has no column {label_column!r}"
    column = choose_columns(rows, image_column, label_column, labels="optional").label
    if column is None:
        return "has no column of labels"
    values = rows.with_format(None).select_columns([column])[column]
    return None if any(not _is_no_label(one) for one in values) else "has no labels (all of them are −1 or empty)"


def _check_labelled(rows: Dataset, asked: tuple[Any, ...], split: str, source: str) -> None:
    reason = _why_unlabelled(rows, asked) if asked[2] == "needed" else None
    if reason is not None:
        raise InputError(f"The split {split!r} of {source!r} {reason}. Name another split, or the column of labels.")


def _is_no_label(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and value < 0)


def _serves_both(split: str, source: str) -> str:
    return (
        f"Split {split!r} of {source!r} would serve both to train on and to evaluate on. Name another one, or none: "
        "a fifth of it is then held out."
    )
