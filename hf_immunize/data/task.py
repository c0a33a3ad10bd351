"""The rows of one task, by whatever name the user gave: what is trained on, what is measured on, and how both came."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from datasets import Dataset, IterableDataset

from hf_immunize.data.columns import LabelUse, choose_columns
from hf_immunize.data.images import ImageInputs
from hf_immunize.data.names import class_names
from hf_immunize.data.reading import Reading
from hf_immunize.data.sources import AS_AN_OBJECT, Source, as_pair, as_source
from hf_immunize.data.split_words import split_word
from hf_immunize.data.splits import (
    Taken,
    draw_rows,
    evaluation_split,
    hold_out,
    take_split,
    training_name,
    training_split,
)
from hf_immunize.data.streams import DrawnSplits, StreamedInputs, head, is_stream, resolved
from hf_immunize.errors import InputError

__all__ = ["ImageTask", "load_evaluation", "load_task"]

Rows: TypeAlias = Dataset | IterableDataset


@dataclass(frozen=True)
class ImageTask:
    """Training and evaluation rows of one task, and where they came from.

    Attributes:
        train: raw pictures to train on, a data set or a stream.
        evaluation: raw pictures to measure on; no row of ``train`` is among them.
        name: the Hub id without its revision, the base name of a folder or file, or a description.
        revision: the commit on the Hub that was loaded, None where there is none or it cannot be known.
        config: the configuration of a Hub data set.
        split: what is trained on, for example ``"train"``.
        eval_split: what is measured on, for example ``"validation"`` or ``"a fifth of train, drawn by seed 3"``.
        image_column: of the pictures, in both.
        label_column: of the labels, in both; None where there is none or it is not used.
        classes: names of the classes in the order of the labels, where the data name them.
        source: ``"hub"``, ``"local"``, ``"package"`` or ``"object"``.
        arguments: of :func:`load_task` beside the name, as they were given, or of a package's function: what loads the
            same rows again.
        notes: each choice that was made for the user, as a sentence.
        skip_corrupt: pictures of a stream that cannot be read are left out as they come.
    """

    train: Rows
    evaluation: Dataset
    name: str
    revision: str | None
    config: str | None
    split: str
    eval_split: str
    image_column: str
    label_column: str | None
    classes: list[str] | None
    source: str = "object"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    skip_corrupt: bool = False

    def inputs(
        self,
        image_processor: Callable[..., Any] | None,
        *,
        n_channels: int | None = None,
        cache: bool = False,
        name: str = "",
    ) -> tuple[Any, ImageInputs]:
        """Training and evaluation rows as model inputs; the same object twice where both are one.

        The former are :class:`hf_immunize.data.streams.StreamedInputs` where they are a stream.

        Arguments are those of :class:`ImageInputs`; ``cache`` is left aside for rows that a transform of the data set
        may change each time.
        """
        common: dict[str, Any] = {
            "image_processor": image_processor,
            "image_column": self.image_column,
            "label_column": self.label_column,
            "labels": "unused" if self.label_column is None else "needed",
            "n_channels": n_channels,
            "name": name,
        }

        def inputs(rows: Rows) -> Any:
            if isinstance(rows, IterableDataset):
                return StreamedInputs(rows, **common, skip_corrupt=self.skip_corrupt)
            return ImageInputs(rows, **common, cache=cache and rows.format["type"] != "custom")

        train = inputs(self.train)
        return train, train if self.evaluation is self.train else inputs(self.evaluation)


def load_task(
    given: str | os.PathLike[str] | Rows | Mapping[str, Rows] | tuple[Rows, Rows],
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
    skip_corrupt: bool = False,
    streaming: bool = False,
) -> ImageTask:
    """Training and evaluation rows of a task.

    Trained on is the split that is named, else ``train``, else the only one. Measured on is the one that is named, else
    ``test`` (or ``eval``), else ``validation`` (``valid``, ``val``, ``dev``), and where labels are needed never one
    without labels; where none of these is there, a fifth of the training rows, drawn by the seed and taken out of them.

    A stream is trained on as it comes. Measured on are some of its rows (2,000 unless ``max_eval_samples`` says how
    many), which are drawn into memory; with ``max_train_samples`` those that are trained on are drawn likewise.

    Args:
        given: a Hub id, folder or file as :func:`load_source` reads it, one data set or stream, a mapping of splits, or
            a pair (training rows, evaluation rows).
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
        skip_corrupt: leave out rows whose picture cannot be read, and count them in the notes; decodes every picture.
        streaming: read what is named as a stream.

    Raises:
        ValueError: nothing there, no such split or column, the same rows for both, too few rows, labels that are needed
            and not there.
        TypeError: something that is no data set.
        ConnectionError: the Hub cannot be reached.
    """
    # All that decide which rows these are; what was given is told by the source.
    arguments = {name: value for name, value in locals().items() if name not in ("given", "token")}
    reading = Reading(image_column, label_column, labels, skip_corrupt)
    draw = (max_train_samples, max_eval_samples, seed)
    if isinstance(given, (tuple, list)):
        if any(one is not None for one in (split, eval_split, config)):
            raise InputError("A pair of data sets has no splits or configurations to choose from. Name none.")
        split, eval_split = "train", "the second data set of the pair"
        source = Source(dict(zip((split, eval_split), as_pair(given), strict=True)), AS_AN_OBJECT, None, None)
    else:
        source = as_source(given, config, token, streaming, label_column)
    splits = source.splits
    if any(map(is_stream, splits.values())):
        name = split or training_name(splits) or next(iter(splits))
        most = {} if max_train_samples is None else {name: max_train_samples}
        splits = DrawnSplits(splits, most, max_eval_samples, seed, reading.notes)
    train = training_split(source.splits if max_train_samples is None else splits, split, source.name)
    evaluation = None if eval_split is None else take_split(splits, eval_split, source.name)
    if evaluation is not None and evaluation.shares_rows_with(train):
        raise InputError(_serves_both(evaluation.name, source.name))
    stream = resolved(train.rows) if is_stream(train.rows) else None
    if stream is not None:
        train = replace(train, rows=head(stream))
    # A misspelt column gets its nearest name, before a split is blamed.
    choose_columns(train.rows, image_column, label_column, labels=labels)
    for taken in filter(None, (train, evaluation)):
        reading.check_labelled(taken.rows, taken.name, source.name)
    reading.notes += train.notes
    if evaluation is None:
        evaluation = evaluation_split(
            splits,
            source.name,
            apart_from=train.splits,
            why_unfit=reading.why_unlabelled,
            unfit_allowed=labels == "optional",
        )
        reading.notes += evaluation.notes if evaluation else ()
    reading.choose(train.rows)
    rows = reading.prepared(train.rows, "to train on")
    if evaluation is None and stream is not None:
        raise InputError(
            f"{source.name!r} is a stream without a split to measure on. Name one (…_eval_split), pass a pair (to "
            "train on, to measure on), or say how many rows to train on (max_train_samples): a fifth is then held out."
        )
    if evaluation is None:
        rows, other, described = hold_out(replace(train, rows=rows), seed, source.name, reading.label_column)
        reading.notes.append(f"held out {described}, to measure on")
        reading.note_column_of_splits(rows)
    else:
        other, described = reading.prepared(evaluation.rows, "to measure on"), evaluation.name
        other = reading.aligned(rows, other)
        if stream is None:
            rows, other = reading.one_spelling(rows, other)
    return replace(_task(reading, source, rows, other, train.name, described, draw, stream), arguments=arguments)


def load_evaluation(
    given: str | os.PathLike[str] | Rows | Mapping[str, Rows] | tuple[Rows, Rows],
    *,
    split: str | None = None,
    config: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    labels: LabelUse = "optional",
    seed: int = 0,
    token: str | bool | None = None,
    max_samples: int | None = None,
    skip_corrupt: bool = False,
    streaming: bool = False,
) -> ImageTask:
    """Rows to measure on alone: ``test``, else ``validation`` and its kin, else ``train`` or the only split.

    What was taken stands in the notes. ``train`` and ``evaluation`` of the result are one and the same object, and so
    are ``split`` and ``eval_split``. Arguments and errors are those of :func:`load_task`; of a pair the second is
    taken.
    """
    reading = Reading(image_column, label_column, labels, skip_corrupt)
    if isinstance(given, (tuple, list)):
        if split is not None or config is not None:
            raise InputError("A pair of data sets has no splits or configurations to choose from. Name none.")
        given = as_pair(given)[1]
    source = as_source(given, config, token, streaming)
    if any(map(is_stream, source.splits.values())):
        source = replace(source, splits=DrawnSplits(source.splits, {}, max_samples, seed, reading.notes))
    taken: Taken | None
    if split is not None:
        taken = take_split(source.splits, split, source.name)
    else:
        only_these = all(split_word(name) in ("test", "validation") for name in source.splits)
        taken = evaluation_split(
            source.splits,
            source.name,
            why_unfit=reading.why_unlabelled,
            unfit_allowed=labels == "optional" and only_these,
        )
        if taken is None:
            taken = replace(training_split(source.splits, None, source.name), notes=())
            if not isinstance(given, Dataset):
                taken = replace(taken, notes=(_why_trained_rows(taken.name, source.splits),))
    reading.check_labelled(taken.rows, taken.name, source.name)
    reading.notes += taken.notes
    reading.choose(taken.rows)
    rows = reading.prepared(taken.rows, "to measure on")
    rows, _ = reading.one_spelling(rows, rows)
    return _task(reading, source, rows, rows, taken.name, taken.name, (None, max_samples, seed))


def _task(
    reading: Reading,
    source: Source,
    train: Dataset,
    evaluation: Dataset,
    split: str,
    eval_split: str,
    draw: tuple[int | None, int | None, int],
    stream: IterableDataset | None = None,
) -> ImageTask:
    max_train, max_eval, seed = draw
    assert reading.image_column is not None, "choose() settles it"
    reading.note_first_label(train)
    reading.note_alike(class_names(train, reading.label_column))
    measured = draw_rows(evaluation, max_eval, seed)
    reading.note_missing_classes(measured, "to measure on")
    drawn = measured if train is evaluation else draw_rows(train, max_train, seed, reading.label_column)
    if stream is None and drawn is not measured:
        reading.note_missing_classes(drawn, "to train on")
        reading.note_unseen_classes(drawn, measured)
    return ImageTask(
        train=drawn if stream is None else stream,
        evaluation=measured,
        name=source.name,
        revision=source.revision,
        config=source.config,
        split=split,
        eval_split=eval_split,
        image_column=reading.image_column,
        label_column=reading.label_column,
        classes=class_names(train, reading.label_column),
        source=source.kind,
        notes=(*source.notes, *reading.notes),
        skip_corrupt=reading.skip_corrupt,
    )


def _why_trained_rows(taken: str, splits: Mapping[str, Any]) -> str:
    unknown = ", ".join(repr(name) for name in splits if name != taken and split_word(name) is None)
    why = f"no other is called as one to measure on ({unknown})" if unknown else "no other is fit for it"
    return f"took the split {taken!r} to measure on, since {why}"


def _serves_both(split: str, source: str) -> str:
    return (
        f"Split {split!r} of {source!r} would serve both to train on and to evaluate on. Name another one, or none: "
        "a fifth of it is then held out."
    )
