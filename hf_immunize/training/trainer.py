"""`ImmunizationTrainer`: the Trainer with a harmful stream beside the primary one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalPrediction
from transformers.utils import logging

from hf_immunize.data.collate import collate_images
from hf_immunize.data.streams import is_stream
from hf_immunize.errors import InputError, InputTypeError
from hf_immunize.models.activations import ActivationStore
from hf_immunize.models.extraction import MapStyle
from hf_immunize.models.forward import ACTIVATIONS
from hf_immunize.models.head import features_and_logits, find_head
from hf_immunize.models.repeatable import check_repeatable
from hf_immunize.models.trainable import keep_still, select_trainable
from hf_immunize.objectives.objective import ModelObjective, Phase, with_unit_gradient
from hf_immunize.training.arguments import ImmunizationArguments
from hf_immunize.training.as_made import AsMade
from hf_immunize.training.batches import joined, over_processes
from hf_immunize.training.budget import AccuracyBudget, split_held_out
from hf_immunize.training.caching import cached_streams
from hf_immunize.training.checkpointing import CheckpointsWithThetaZero
from hf_immunize.training.checks import (
    check_evaluation,
    check_model,
    check_objective,
    check_steps,
    checkpoint_activations_of_timm,
    first_batches,
)
from hf_immunize.training.evaluating import DATA, accuracy
from hf_immunize.training.finite import FiniteSteps, NonFiniteLossError
from hf_immunize.training.loaders import training_loader
from hf_immunize.training.logged_parts import with_own_parts
from hf_immunize.training.pairing import PairedDataset, check_source
from hf_immunize.training.phases import Phased
from hf_immunize.training.publishing import Publishing
from hf_immunize.training.ratio_in_mid_run import RatioInMidRun
from hf_immunize.training.seeing import Architecture, step_view, watched_outputs
from hf_immunize.training.theta_zero import ThetaZero
from hf_immunize.training.unserved import check_served
from hf_immunize.training.what_trains import check_features_move, check_hidden, check_own_optimizer

__all__ = ["ImmunizationTrainer"]

logger = logging.get_logger(__name__)


class ImmunizationTrainer(AsMade, Phased, CheckpointsWithThetaZero, FiniteSteps, Publishing):
    """Trains a classifier on its primary task while making harmful fits on its features slow (arXiv 2505.23760).

    The loss of a step is the primary task's cross-entropy plus the parts of the objective on the primary and the
    harmful features. ``evaluate()`` adds RIR_θ0 in the paper's protocol to the primary accuracy and loss, so that
    ``metric_for_best_model="eval_rir"`` works; θ0 are the weights before the first step.

    Args:
        model: any image classifier of `transformers` or `timm`, or a module like them.
        args: an :class:`ImmunizationArguments`.
        train_dataset: the primary data: raw images with ``processing_class``, or model inputs. Each of the four may be
            a stream (`IterableDataset`); of one to measure on ``args.stream_samples`` rows are taken.
        harmful_dataset: the harmful data; shorter ones are recycled. Labels where ``objective.needs_harmful_labels``.
        eval_dataset: primary data for ``evaluate()``.
        harmful_eval_dataset: harmful data for RIR; the training ones unless given.
        processing_class: the image processor, saved with the model.
        data_collator: of one stream, from samples to a mapping of tensors.
        activations: those of earlier runs on the same data, so that a frozen part that is the same runs no second time.
        **kwargs: of the Trainer; ``compute_loss_func`` takes the place of the primary task's cross-entropy.

    Attributes:
        selection: what trains.
        notes: what was chosen for the user, in sentences.

    Raises:
        InputTypeError: arguments of another class.
        InputError: ``model_init``, empty or unlabelled data, labels outside the head, images of different channels, no
            head.

    Example:
        >>> trainer = ImmunizationTrainer(model, args, train_dataset=primary, harmful_dataset=harmful)  # doctest: +SKIP
        >>> trainer.train()  # doctest: +SKIP
    """

    #: compute_loss returns a mean over a micro-batch, whatever the model's own signature accepts.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: nn.Module,
        args: ImmunizationArguments,
        *,
        train_dataset: MapStyle | None = None,
        harmful_dataset: MapStyle | None = None,
        eval_dataset: MapStyle | dict[str, MapStyle] | None = None,
        harmful_eval_dataset: MapStyle | None = None,
        processing_class: Callable[..., Any] | None = None,
        data_collator: Callable[[list[Any]], Any] | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
        activations: ActivationStore | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(args, ImmunizationArguments):
            raise InputTypeError(f"args must be an ImmunizationArguments, got {type(args).__name__}.")
        if kwargs.get("model_init") is not None:
            raise InputError(
                "model_init is not supported: what trains and θ0 belong to one model. Make the model first and pass "
                "it, once for every trial of a search."
            )
        # Once more, for what was set since they were made.
        check_served(args)
        check_model(model)
        self.objective = args.made_objective()
        check_objective(self.objective, args)
        if train_dataset is not None and self._is_active and harmful_dataset is None:
            raise InputError(
                "harmful_dataset is missing. Pass the harmful images, or set lambda_primary=0 and lambda_harmful=0 for "
                "plain fine-tuning."
            )
        check_steps(args, (train_dataset, harmful_dataset))
        self.stream_collator = data_collator or collate_images
        self.notes = []
        # To read data by; the Trainer sets them again.
        self.args, self.model, self.processing_class = args, model, cast(Any, processing_class)
        slowed = harmful_eval_dataset
        if slowed is None and is_stream(harmful_dataset):
            slowed = harmful_dataset
        self.harmful_dataset = self._read("harmful_dataset", harmful_dataset)
        self.harmful_eval_dataset = self._read("harmful_eval_dataset", slowed)
        check_evaluation(args, eval_dataset, compute_metrics is not None, "preprocess_logits_for_metrics" in kwargs)
        # Kept from the Trainer, which would take the loss for one over all micro-batches.
        self.own_task_loss = kwargs.pop("compute_loss_func", None)
        if self.own_task_loss is not None and args.label_smoothing_factor:
            logger.warning(
                "label_smoothing_factor is without effect beside compute_loss_func, which gets plain labels."
            )
        if args.n_gpu > 1:
            logger.warning(f"One of the {args.n_gpu} GPUs is used. For all of them: torchrun --nproc_per_node N …")
            args._n_gpu = 1
        # The Trainer's own label smoothing asks for a transformers model; the task loss below smooths for any.
        smoothing, args.label_smoothing_factor = args.label_smoothing_factor, 0.0
        self.train_dataset = self._read("train_dataset", train_dataset)
        super().__init__(
            model=model,
            args=args,
            train_dataset=self.train_dataset,
            eval_dataset=self._read("eval_dataset", eval_dataset),
            processing_class=self.processing_class,
            data_collator=self.stream_collator,
            compute_metrics=compute_metrics or accuracy,
            **kwargs,
        )
        args.label_smoothing_factor = smoothing
        checkpoint_activations_of_timm(self._network, args)
        self.label_names = ["labels"]
        if not hasattr(self.model, "main_input_name"):
            # Under which the Trainer hands the images to metrics that want them.
            cast(Any, self.model).main_input_name = "pixel_values"
        sources = {name: getattr(self, attribute) for attribute, name in DATA.items()}
        self.model.to(args.device)
        self._sample = first_batches(
            self.model, sources, self.stream_collator, args.device, self.objective.needs_harmful_labels
        )
        check_repeatable(self.model, self._sample)
        self.say_what_is_shared(sources)
        self._n_classes = find_head(self.model, self._sample).n_classes
        self.selection = select_trainable(self.model, args.selection, self._sample)
        check_hidden(self.objective, self.model, self._sample)
        if self._is_active:
            check_features_move(self.model, self._sample)
        self._given = kwargs.get("optimizers", (None, None))
        check_own_optimizer(self._given[0], self._network)
        logger.warning_once(f"Training {self.selection}")
        self._architecture = Architecture(self._network, self._sample)
        self.check_phases()
        self._theta_zero = ThetaZero(self._network, self._moving)
        self._activations = ActivationStore(args.cache_frozen_gb * 1e9) if activations is None else activations
        self._prefix = None
        self._own_collator = data_collator is not None
        self._ratio = RatioInMidRun()
        self._as_made()
        self._held_out = None
        if args.max_accuracy_drop is not None and self.train_dataset is not None:
            self._held_out = split_held_out(self.train_dataset, args)[1]
            if self._is_active:
                measured = self._accuracy_held_out
                self.budget = AccuracyBudget(args, self._network, self._theta_zero, measured, self._note)
                self.add_callback(self.budget)

    # ------------------------------------------------------------------ data

    def get_train_dataloader(self) -> DataLoader:
        """One loader over both tasks; nothing is dropped or shuffled outside of it."""
        if self.train_dataset is None:
            raise InputError("Training needs train_dataset, the primary data.")
        streams: list[Any] = [self.train_dataset, self.harmful_dataset if self._is_active else None]
        for name, stream in zip(("primary", "harmful"), streams, strict=True):
            if stream is not None:
                check_source(stream, name)
        self._prefix, streams, note = cached_streams(
            self.model, streams, self._sample, self.args, self._activations, own_collator=self._own_collator
        )
        self.notes = [*(one for one in self.notes if not one.startswith("Frozen part")), note]
        logger.info(note)
        if self._held_out is not None:
            streams[0], self._held_out = split_held_out(streams[0], self.args)
        collate = self.stream_collator if self._prefix is None else collate_images
        return training_loader(streams, self.args, self.accelerator, collate, self._n_classes)

    def num_examples(self, dataloader: DataLoader) -> int:
        """Primary samples an epoch."""
        dataset = getattr(dataloader, "dataset", None)
        return dataset.n_primary if isinstance(dataset, PairedDataset) else super().num_examples(dataloader)

    # ------------------------------------------------------------------ loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Cross-entropy of the primary batch plus the parts of the objective, one forward for both batches."""
        if "primary" not in inputs:
            if model.training and self._is_active:
                raise InputError(
                    "A batch of this training holds one task alone, so that nothing would be immunized. Let "
                    "get_train_dataloader be the Trainer's own: it gives 'primary' and 'harmful' together."
                )
            _, logits = features_and_logits(model, self._architecture.laid_out(inputs) if model.training else inputs)
            loss = self._task_loss(logits, inputs["labels"])
            return (loss, {"logits": logits}) if return_outputs else loss
        if model.training:
            keep_still(model)
        primary, harmful = inputs["primary"], inputs.get("harmful")
        n_primary = primary["labels"].shape[0]
        sees = self.objective if harmful is not None and isinstance(self.objective, ModelObjective) else None
        done, steps = self.state.global_step, max(self.state.max_steps, 1)
        phase = Phase()
        if sees is not None:
            phase = sees.phase(done / steps)
            self.settle(sees)
        batch = joined(primary, harmful) if harmful is not None and phase.harmful_features else primary
        prefix = self._prefix if ACTIVATIONS in batch else None
        batch = self._architecture.laid_out(batch, prefix)
        with contextlib.ExitStack() as around:
            reads_hidden = sees is not None and sees.reads_hidden
            # Before the frozen part is bypassed: which blocks there are is told by all of the model.
            hidden = around.enter_context(watched_outputs(self._network, batch)) if reads_hidden else {}
            if prefix is not None:
                around.enter_context(prefix.bypassed(every_token=reads_hidden))
            features, logits = features_and_logits(model, batch)
        parts = {"task_loss": self._task_loss(logits[:n_primary], primary["labels"])} if phase.labels else {}
        if harmful is not None:
            both = (features[:n_primary], features[n_primary:])
            with torch.autocast(features.device.type, enabled=False):
                if sees is not None:
                    seeds = (self.args.seed + self.state.global_step, self.args.seed)
                    laid_out = self._architecture.laid_out
                    batches = (laid_out(primary, prefix), laid_out(harmful, prefix))
                    known = (logits[:n_primary], self._theta_zero)
                    view = step_view(self._architecture, prefix, *batches, both, hidden, seeds, done / steps, *known)
                    parts = with_own_parts(parts, sees.of_step(view, over_processes))
                    if phase.balanced:
                        kept = {name: (parts[name], self._weight(name)) for name in phase.balanced}
                        parts |= with_unit_gradient(kept, view.parameters)
                else:
                    labels = harmful.get("labels") if self.objective.needs_harmful_labels else None
                    parts = with_own_parts(parts, self._regularizers(*both, labels))
        self._check_finite(parts)
        if self.budget is not None:
            parts = self.budget.weighted(parts, noted=model.training)
        loss = cast(torch.Tensor, sum(self._weight(name) * part for name, part in parts.items()))
        if model.training:
            self._count(parts)
        return (loss, {"logits": logits[:n_primary]}) if return_outputs else loss

    def _weight(self, name: str) -> int:
        # DDP averages gradients over processes, but each holds only its own rows' share of a part over all rows.
        return 1 if name == "task_loss" else self.args.world_size

    def _regularizers(
        self, primary: torch.Tensor, harmful: torch.Tensor, harmful_labels: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        try:
            return self.objective(
                over_processes(primary),
                over_processes(harmful),
                None if harmful_labels is None else over_processes(harmful_labels),
            )
        except (ValueError, torch.linalg.LinAlgError) as error:
            raise NonFiniteLossError(self._way_out(self.args.objective, str(error))) from error
