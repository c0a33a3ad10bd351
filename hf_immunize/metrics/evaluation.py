"""Models and data sets → features → RIR_θ0 with ranks and spreads, in both protocols."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from transformers.utils import logging

from hf_immunize.data.class_order import labels_of, names_of
from hf_immunize.data.collate import collate_images
from hf_immunize.data.draw import at_most
from hf_immunize.data.inputs import as_inputs
from hf_immunize.data.overlap import overlap
from hf_immunize.data.streams import DRAWN, first_samples
from hf_immunize.errors import InputError
from hf_immunize.metrics.peers import Peers
from hf_immunize.metrics.report import Protocol, RIRReport, report_of
from hf_immunize.models.class_names import in_order_of, model_class_names, why_unmatched
from hf_immunize.models.extraction import MapStyle, check_batch_size
from hf_immunize.models.forward import unwrap
from hf_immunize.models.head import find_head

__all__ = ["MOST_MEASURED", "evaluate_immunization"]

logger = logging.get_logger(__name__)
#: Images of a task that are measured, if nothing else is said.
MOST_MEASURED = 20_000


def evaluate_immunization(
    model: nn.Module,
    base_model: nn.Module,
    primary: MapStyle,
    harmful: MapStyle,
    *,
    image_processor: Callable[..., Any] | None = None,
    protocol: Protocol | None = None,
    float64: bool | None = None,
    batch_size: int = 64,
    max_samples: int | None = MOST_MEASURED,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> RIRReport:
    """RIR_θ0 of a model against the model that it started from.

    One pass over each data set serves both models, whose first layers run once where they are the same. Features are
    not kept: memory does not grow with the data.

    Args:
        model: the immunized classifier, θᴵ.
        base_model: the same architecture before, θ0.
        primary: images of the primary task: a `datasets` data set, or any map-style data set of model inputs. Of a
            stream at most 2,000 rows are taken. Where they name classes that the model does not have, or
            another number of them than a model without names has, that is said and there is no accuracy.
        harmful: images of the harmful task; labels are not needed.
        image_processor: needed for raw images.
        protocol: 20 groups of 100 samples if not given.
        float64: None measures in float32 first, and again in float64 what has a deciding singular value near the floor
            of float32: a group, or all samples, of one task of one model. Of all samples 16 rows come first, which may
            show that rounding leaves that value as it is (to 1.25e-4). True measures everything in float64, False
            nothing. What was measured how stands in the report's ``precision``.
        batch_size: of the forward passes.
        max_samples: no more than these of each task, drawn with the protocol's seed; None for all.
        device: where to run; the model's own if not given.
        progress: show progress bars.

    Raises:
        ValueError: fewer than two samples of a task; the same object as both models.
    """
    if unwrap(model) is unwrap(base_model):
        raise InputError("model and base_model are the same object, so RIR would be 1 whatever it holds. Load both.")
    check_batch_size(batch_size)
    protocol = protocol or Protocol()
    most = min(max_samples or DRAWN, DRAWN)
    kept_task = as_inputs(primary, image_processor, labels="optional", name="primary", most=most)
    models = {"immunized": model, "initial": base_model}
    # Of two of which one only numbers its classes, the other says what the numbers mean: one was made of the other.
    by = base_model if model_class_names(base_model) is not None else model
    orders: dict[str, dict[int, int]] = {}
    try:
        _check_matched(by, kept_task)
        kept_task, orders = _numbered_for(models, by, kept_task)
    except InputError as error:
        # RIR needs no labels, and classes that the model does not have can have no accuracy.
        logger.warning(f"No accuracy of the primary task: {error}")
        kept_task = kept_task.without_labels()
    slowed_task = as_inputs(harmful, image_processor, labels="unused", name="harmful", most=most)
    shared = overlap(slowed_task, kept_task)
    if shared is not None:
        told = shared.told("of the harmful task", "of the primary task")
        logger.warning(f"{told}: (i) and (ii) are figures of the same pictures there.")
    data = {
        "harmful": at_most(slowed_task, max_samples, protocol.seed),
        "primary": at_most(kept_task, max_samples, protocol.seed),
    }
    for task, one in data.items():
        if len(one) == 0:
            raise InputError(f"The {task} data set is empty. Check its split and its filters.")
    peers = Peers(models, data["harmful"], device=device, batch_size=batch_size, progress=progress)
    tasks = {
        task: peers.measured(one, task, protocol.indices(len(one)), float64, orders if task == "primary" else {})
        for task, one in data.items()
    }
    try:
        accuracy = {name: tasks["primary"][name].accuracy for name in models}
    except InputError as error:
        logger.warning(f"No accuracy of the primary task: {error}")
        accuracy = {}
    return report_of(tasks, protocol, primary_accuracy=accuracy)


def _check_matched(model: nn.Module, data: Any) -> None:
    """Raises InputError where data name another number of classes than a model that only numbers its own has."""
    if names_of(data) is None or model_class_names(model) is not None or not len(data):
        return
    few, own = collate_images(first_samples(data, 2))["pixel_values"], next(model.parameters())
    why = why_unmatched(model, data, "the primary data", find_head(model, few.to(own.device, own.dtype)).n_classes)
    if why is not None:
        raise InputError(
            f"{why}. Name the model's classes (id2label and label2id), or give data that name all of them."
        )


def _numbered_for(models: Mapping[str, nn.Module], by: nn.Module, data: Any) -> tuple[Any, dict[str, dict[int, int]]]:
    """Data with its classes numbered as one of the models does, and what each number is for models of another order."""
    numbered = in_order_of(by, data, "the primary data")
    labels, orders = labels_of(numbered), {}
    for name, one in models.items():
        if one is by or labels is None or model_class_names(one) is None:
            continue
        own = labels_of(in_order_of(one, data, "the primary data"))
        moved = {} if own is None else {int(a): int(b) for a, b in zip(labels, own, strict=True) if int(a) != int(b)}
        if moved:
            logger.warning(
                f"The {name} model numbers its classes in another order than the one beside it: its accuracy is by its "
                "own order."
            )
            orders[name] = moved
    return numbered, orders
