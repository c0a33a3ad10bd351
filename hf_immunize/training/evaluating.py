"""Evaluation of a Trainer: primary loss and accuracy over processes, RIR_θ0 beside them, raw images anywhere."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from transformers import EvalPrediction
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.trainer_utils import EvalLoopOutput
from transformers.utils import logging

from hf_immunize.data.class_order import in_one_order, labels_of
from hf_immunize.data.collate import collate_images
from hf_immunize.data.columns import LabelUse
from hf_immunize.data.inputs import as_inputs
from hf_immunize.data.labels import check_labels
from hf_immunize.data.random_numbers import undisturbed_random_numbers
from hf_immunize.data.streams import is_stream
from hf_immunize.models.class_names import in_order_of
from hf_immunize.models.extraction import extract_features
from hf_immunize.models.head import features_and_logits
from hf_immunize.training.checks import shared_pictures
from hf_immunize.training.trainer_part import TrainerPart

__all__ = ["DATA", "Evaluating", "accuracy", "inputs_of"]

logger = logging.get_logger(__name__)

#: What of a Trainer holds data, and what these are called.
DATA = {
    "train_dataset": "primary",
    "harmful_dataset": "harmful",
    "eval_dataset": "primary evaluation",
    "harmful_eval_dataset": "harmful evaluation",
}


class Evaluating(TrainerPart):
    """The part of a Trainer that evaluates and predicts."""

    _evaluates: bool = False

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """As the Trainer's, also for raw images: one given to ``evaluate()`` is read as one given at the start."""
        return super().get_eval_dataloader(self._evaluated(eval_dataset, labels_needed=True))

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """As the Trainer's, also for raw images, with labels or without."""
        return super().get_test_dataloader(self._evaluated(test_dataset, labels_needed=False))

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As the Trainer's, with RIR_θ0 under whatever prefix was asked for."""
        self._evaluates = True
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            self._evaluates = False

    def _evaluated(self, data: Any, labels_needed: bool) -> Any:
        given = self.eval_dataset
        # Those of the Trainer were read already; looking at them again may draw random numbers.
        already = given.values() if isinstance(given, dict) else (given,)
        if data is None or isinstance(data, str) or any(data is one for one in already):
            return data
        inputs = self._read("eval_dataset", data, labels_needed)
        for one in inputs.values() if isinstance(inputs, dict) else (inputs,):
            known = labels_of(one)
            if known is not None:
                check_labels(known, self._n_classes, DATA["eval_dataset"])
        self.say_what_is_shared({"primary": self.train_dataset, DATA["eval_dataset"]: inputs})
        return inputs

    def _read(self, attribute: str, data: Any, labels_needed: bool | None = None) -> Any:
        """Model inputs of what is given for one of :data:`DATA`; labels where primary data or the objective need them.

        RIR draws its groups from rows, so that of a stream to measure on some are taken, once.
        """
        name = DATA[attribute]
        primary = name.startswith("primary")
        if labels_needed is None:
            labels_needed = primary or (name == "harmful" and self.objective.needs_harmful_labels)
        return inputs_of(
            data,
            self.processing_class,
            labels_needed,
            name,
            self.model if primary else None,
            like=self.train_dataset if attribute == "eval_dataset" else None,
            most=self.args.stream_samples if name.endswith("evaluation") else None,
            notes=self.notes,
        )

    def say_what_is_shared(self, sources: Mapping[str, Any]) -> None:
        """Warns of pictures that are trained on and measured on, or of both tasks, and notes it."""
        for note in shared_pictures(sources):
            if note not in self.notes:
                self._say(note)

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Loss, logits and labels of a batch; of one without labels the logits alone, for any kind of classifier."""
        if "labels" in inputs:
            check_labels(inputs["labels"], self._n_classes, DATA["eval_dataset"])
            return super().prediction_step(model, inputs, *args, **kwargs)
        with torch.no_grad():
            logits = features_and_logits(model, self._prepare_inputs(inputs))[1].detach()
        prediction_loss_only = args[0] if args else kwargs["prediction_loss_only"]
        return None, None if prediction_loss_only else logits, None

    def _accuracy_held_out(self) -> tuple[float, int]:
        """The accuracy on the rows that are held out for a budget, and their number."""
        cached = self._prefix is not None
        with self._prefix.bypassed() if self._prefix is not None else contextlib.nullcontext():
            found = extract_features(
                self._network,
                self._held_out,
                batch_size=self.args.per_device_eval_batch_size,
                device=self.args.device,
                collate=collate_images if cached else self.stream_collator,
                accelerator=self.accelerator,
                num_workers=0 if cached else self.args.dataloader_num_workers,
            )
        return cast(float, found.accuracy), len(self._held_out)

    def _task_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if self.own_task_loss is not None:
            outputs = ImageClassifierOutput(logits=cast(Any, logits.float()))
            return self.own_task_loss(outputs, labels, num_items_in_batch=len(labels))
        return F.cross_entropy(logits.float(), labels, label_smoothing=self.args.label_smoothing_factor)

    @undisturbed_random_numbers()
    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        """Primary loss and accuracy as the Trainer computes them, and RIR_θ0 with spreads, ranks and bounds beside."""
        output = super().evaluation_loop(*args, **(kwargs | {"metric_key_prefix": metric_key_prefix}))
        metrics = cast("dict[str, float]", output.metrics)
        dataloader = args[0] if args else kwargs["dataloader"]
        whole = isinstance(output.predictions, np.ndarray) and self.preprocess_logits_for_metrics is None
        if f"{metric_key_prefix}_loss" in metrics and whole:
            # The Trainer's mean over batches counts rows twice where several processes share an uneven last one.
            # Where a loss of the user's own has its class weights.
            logits, labels = (
                torch.from_numpy(one).to(self.args.device) for one in (output.predictions, output.label_ids)
            )
            metrics[f"{metric_key_prefix}_loss"] = self._task_loss(logits, labels.long()).item()
        harmful = self.harmful_eval_dataset if self.harmful_eval_dataset is not None else self.harmful_dataset
        if self._evaluates and harmful is not None:
            found = self._ratio.metrics(
                self._network,
                self._theta_zero,
                {"primary": dataloader.dataset, "harmful": harmful},
                self.args,
                accelerator=self.accelerator,
                collate=self.stream_collator,
            )
            metrics.update({f"{metric_key_prefix}_{name}": value for name, value in found.items()})
        return output


def inputs_of(
    data: Any,
    image_processor: Any,
    labels_needed: bool,
    name: str,
    model: nn.Module | None = None,
    *,
    like: Any = None,
    most: int | None = None,
    notes: list[str] | None = None,
) -> Any:
    """Model inputs of one data set, or of several by name; primary labels numbered as the model numbers its classes.

    Args:
        data: rows of any kind, or several by name.
        image_processor: for raw images.
        labels_needed: whether there must be labels.
        name: of the data, for messages.
        model: whose classes the labels are.
        like: what the model is trained on, whose classes they are where the model only numbers its own.
        most: take so many rows of a stream; None to leave it one.
        notes: gets a sentence for this, and for each choice of a column or of an order of classes.
    """
    if isinstance(data, Mapping) and not hasattr(data, "column_names"):
        return {
            own: inputs_of(
                one, image_processor, labels_needed, f"{name} {own}", model, like=like, most=most, notes=notes
            )
            for own, one in data.items()
        }
    if data is None:
        return None
    labels: LabelUse = "needed" if labels_needed else "optional"
    inputs = as_inputs(data, image_processor, labels=labels, name=name, most=most)
    told = [f"took {len(inputs)} rows of a stream"] if is_stream(data) and most is not None else []
    if model is not None:
        inputs = in_order_of(model, inputs, f"the {name} data", like, told.append)
    elif labels_needed:
        inputs = in_one_order(inputs, what=f"the {name} data")
    for note in (f"{name}: {one}" for one in (*told, *getattr(inputs, "notes", ()))):
        if notes is not None and note not in notes:
            logger.warning_once(note)
            notes.append(note)
    return inputs


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Share of samples whose largest logit is their label."""
    logits, labels = cast(Any, prediction.predictions), cast(Any, prediction.label_ids)
    if isinstance(logits, list):
        # A list of batches: eval_do_concat_batches=False.
        logits, labels = np.concatenate(logits), np.concatenate(labels)
    return {"accuracy": float((logits.argmax(-1) == labels).mean())}
