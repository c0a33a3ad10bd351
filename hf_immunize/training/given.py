"""What a user hands in for a run, a model and data sets by name or as objects, as what the run needs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias, cast

from datasets import Dataset, DatasetDict, IterableDataset
from torch import nn

from hf_immunize.data.class_order import labels_of, names_of
from hf_immunize.data.collate import collate_images, label_of
from hf_immunize.data.columns import LabelUse
from hf_immunize.data.inputs import as_inputs
from hf_immunize.data.labels import check_labels, whole_numbers
from hf_immunize.data.streams import first_samples, is_stream
from hf_immunize.data.task import ImageTask, load_task
from hf_immunize.errors import InputError
from hf_immunize.models.copies import copied
from hf_immunize.models.extraction import MapStyle
from hf_immunize.models.head import find_head
from hf_immunize.models.loaded import LoadedModel
from hf_immunize.models.loading import load_model
from hf_immunize.models.pooled import with_head
from hf_immunize.objectives.registry import OBJECTIVES
from hf_immunize.training.arguments import ImmunizationArguments

__all__ = ["Data", "Pair", "check_head", "loaded_data", "loaded_model", "measurable", "model_inputs"]

Pair: TypeAlias = tuple[MapStyle, MapStyle]
#: A data set by name, as rows, as splits, as a pair to train on and to measure on (of rows or of model inputs), loaded.
Data: TypeAlias = str | os.PathLike[str] | Dataset | DatasetDict | IterableDataset | Pair | ImageTask


def loaded_data(
    given: Data, task: str, args: ImmunizationArguments, attacked: bool, token: str | bool | None
) -> ImageTask | Pair:
    """The data of a task, loaded where they were named; labels are read where somebody needs them."""
    if isinstance(given, ImageTask):
        return given
    if isinstance(given, tuple) and not all(isinstance(one, (Dataset, IterableDataset)) for one in given):
        if len(given) != 2:
            raise InputError(f"The {task} data must be a pair (to train on, to measure on), got {len(given)} parts.")
        return given
    needed = task != "harmful" or OBJECTIVES[args.objective].needs_harmful_labels
    use: LabelUse = "needed" if needed else "optional" if attacked else "unused"
    parts = given.values() if isinstance(given, Mapping) else given if isinstance(given, tuple) else (given,)
    most = args.stream_samples if any(map(is_stream, parts)) else None
    return load_task(cast(Any, given), labels=use, seed=args.seed, token=token, max_eval_samples=most)


def loaded_model(
    model: str | os.PathLike[str] | nn.Module | LoadedModel,
    primary: ImageTask | Pair,
    image_processor: Callable[..., Any] | None,
    new_head: bool,
    **options: Any,
) -> tuple[LoadedModel | nn.Module, Callable[..., Any] | None]:
    """The model, loaded where it was named, and what prepares images for it."""
    if isinstance(model, (str, os.PathLike)):
        labels = _class_names(primary) if new_head else None
        model = load_model(model, labels=labels, **options)
    elif new_head and not isinstance(model, LoadedModel):
        model = with_head(model, _class_names(primary))
    elif new_head:
        raise InputError("new_head is for a model by name or a module. Load this one with labels=[…] instead.")
    elif isinstance(model, LoadedModel):
        # It says where its weights are from, which those of a run are not.
        model = replace(model, model=copied(model.model))
    if isinstance(model, LoadedModel):
        return model, image_processor or model.require_processor()
    return model, image_processor


def _class_names(primary: ImageTask | Pair) -> list[str]:
    if isinstance(primary, ImageTask) and primary.classes:
        return primary.classes
    rows: Any = primary.train if isinstance(primary, ImageTask) else primary[0]
    if is_stream(rows):
        raise InputError(
            "A new head needs the names of the classes, which a stream of numbers does not say. Name them: "
            "stream.cast_column('label', datasets.ClassLabel(names=[…]))."
        )
    column = primary.label_column if isinstance(primary, ImageTask) else None
    named = None if column else names_of(rows)
    if named is not None:
        return named
    labels = rows.with_format(None)[column] if column else labels_of(rows)
    if labels is None:
        labels = [label_of(rows[index]) for index in range(len(rows))]
    if not len(labels) or any(one is None for one in labels):
        raise InputError("A new head needs the classes of the primary data, which have no labels. Give each row one.")
    return [str(index) for index in range(int(whole_numbers(labels, "primary").max()) + 1)]


def model_inputs(source: ImageTask | Pair, base: LoadedModel | nn.Module, processor: Any) -> Pair:
    """Training and evaluation data as model inputs."""
    if not isinstance(source, ImageTask):
        first, second = (as_inputs(one, processor, labels="optional") for one in source)
        return first, first if source[1] is source[0] else second
    if processor is None:
        raise InputError(
            "Raw images need an image processor: image_processor=AutoImageProcessor.from_pretrained(…), or "
            "hf_immunize.data.preprocessing.TimmImageProcessor.from_model(model) for a timm model."
        )
    n_channels = base.n_channels if isinstance(base, LoadedModel) else None
    return source.inputs(processor, n_channels=n_channels)


def measurable(data: Mapping[str, Any], args: ImmunizationArguments) -> dict[str, Any]:
    """The pairs as they are measured: of a stream, ``args.stream_samples`` rows."""
    return {
        task: tuple(as_inputs(one, None, name=task, most=args.stream_samples) for one in pair)
        for task, pair in data.items()
    }


def check_head(network: nn.Module, primary: Pair) -> None:
    """Raises InputError, with what to do, where the primary labels do not fit the model's head."""
    own = next(network.parameters())
    few = collate_images(first_samples(primary[0], 2))
    n_classes = find_head(network, few["pixel_values"].to(own.device, own.dtype)).n_classes
    for name, part in zip(("primary", "primary evaluation"), primary, strict=True):
        known = labels_of(part)
        try:
            check_labels(few["labels"] if known is None else known, n_classes, name)
        except InputError as error:
            raise InputError(
                f"{error} Or give the model a new head and fit it first: new_head=True, fit_steps=300 "
                "(--new_head --fit_steps 300)."
            ) from error
