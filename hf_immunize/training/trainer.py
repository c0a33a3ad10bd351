"""`ImmunizationTrainer`: the Trainer with a harmful stream beside the primary one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Subset
from transformers import EvalPrediction, PreTrainedModel, Trainer
from transformers.utils import logging

from hf_immunize.data.images import as_inputs, collate_images
from hf_immunize.data.labels import check_labels
from hf_immunize.errors import InputError, InputTypeError, UserError
from hf_immunize.metrics.evaluation import Protocol, group_spectra
from hf_immunize.models.extraction import extract_features
from hf_immunize.models.forward import unwrap
from hf_immunize.models.head import features_and_logits, find_head
from hf_immunize.models.trainable import keep_still, select_trainable
from hf_immunize.objectives.objective import Objective
from hf_immunize.objectives.registry import get_objective
from hf_immunize.spectra.ratio import relative_immunization_ratio
from hf_immunize.spectra.spectrum import Spectrum
from hf_immunize.training.arguments import ImmunizationArguments
from hf_immunize.training.pairing import PairedBatchSampler, PairedCollator, PairedDataset
from hf_immunize.training.theta_zero import ThetaZero

__all__ = ["ImmunizationTrainer", "NonFiniteLossError"]

logger = logging.get_logger(__name__)


class NonFiniteLossError(UserError, FloatingPointError):
    """The task loss or a regularizer is no longer a finite number."""


class ImmunizationTrainer(Trainer):
    """Trains a classifier on its primary task while making harmful fits on its features slow (arXiv 2505.23760).

    The loss of a step is the primary task's cross-entropy plus the parts of the objective on the primary and the
    harmful features. ``evaluate()`` adds RIR_θ0 in the paper's protocol to the primary accuracy and loss, so that
    ``metric_for_best_model="eval_rir"`` works; θ0 are the weights before the first step.

    Args:
        model: any image classifier of `transformers` or `timm`, or a module like them.
        args: an :class:`ImmunizationArguments`.
        train_dataset: the primary data: raw images with ``processing_class``, or model inputs.
        harmful_dataset: the harmful data; shorter ones are recycled. Labels are needed by ``imma`` alone.
        eval_dataset: primary data for ``evaluate()``.
        harmful_eval_dataset: harmful data for RIR; the training ones unless given.
        processing_class: the image processor, saved with the model.
        data_collator: of one stream, from samples to a mapping of tensors.

    Raises:
        TypeError: arguments of another class.
        ValueError: empty or unlabelled data, labels outside the head, images of different channels, no head.

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
        train_dataset: Any = None,
        harmful_dataset: Any = None,
        eval_dataset: Any = None,
        harmful_eval_dataset: Any = None,
        processing_class: Any = None,
        data_collator: Callable[[list[Any]], Any] | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(args, ImmunizationArguments):
            raise InputTypeError(f"args must be an ImmunizationArguments, got {type(args).__name__}.")
        self.objective: Objective = get_objective(
            args.objective,
            lambda_primary=args.lambda_primary,
            lambda_harmful=args.lambda_harmful,
            scale_free=args.scale_free,
        )
        if train_dataset is not None and self._active(self.objective) and harmful_dataset is None:
            raise InputError(
                "harmful_dataset is missing. Pass the harmful images, or set lambda_primary=0 and lambda_harmful=0 for "
                "plain fine-tuning."
            )
        needs_labels = self.objective.needs_harmful_labels
        self.stream_collator = data_collator or collate_images
        self.harmful_dataset = _inputs(harmful_dataset, processing_class, needs_labels)
        self.harmful_eval_dataset = _inputs(harmful_eval_dataset, processing_class, False)
        # The Trainer's own label smoothing asks for a transformers model; the task loss below smooths for any.
        smoothing, args.label_smoothing_factor = args.label_smoothing_factor, 0.0
        super().__init__(
            model=model,
            args=args,
            train_dataset=_inputs(train_dataset, processing_class, True),
            eval_dataset=_inputs(eval_dataset, processing_class, True),
            processing_class=processing_class,
            data_collator=self.stream_collator,
            compute_metrics=compute_metrics or _accuracy,
            **kwargs,
        )
        args.label_smoothing_factor = smoothing
        self.label_names = ["labels"]
        # Features, not only logits, decide about RIR: the metric to keep is larger when better.
        if args.metric_for_best_model in ("rir", "eval_rir") and args.greater_is_better is None:
            args.greater_is_better = True
        self._parts: dict[str, torch.Tensor] = {}
        self._parts_steps = 0
        self._initial_spectra: dict[str, list[Spectrum]] = {}
        sample = self._first_batches()
        self.selection = select_trainable(self.model, args.trainable, sample)
        logger.warning_once(f"Training {self.selection}")
        self._theta_zero = ThetaZero(unwrap(self.model))

    # ------------------------------------------------------------------ data

    def get_train_dataloader(self) -> DataLoader:
        """One loader over both streams; nothing is dropped or shuffled outside the paired sampler."""
        if self.train_dataset is None:
            raise InputError("Training needs train_dataset, the primary data.")
        harmful = self.harmful_dataset if self._active(self.objective) else None
        paired = PairedDataset(self.train_dataset, harmful)
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        sampler = PairedBatchSampler(paired, self.args.per_device_train_batch_size, self.args.harmful_batch_size, seed)
        if len(sampler) < self.args.world_size:
            raise InputError(
                f"{paired.n_primary} primary samples give {len(sampler)} batches of "
                f"{self.args.per_device_train_batch_size}, fewer than the {self.args.world_size} processes."
            )
        workers = self.args.dataloader_num_workers
        return self.accelerator.prepare(
            DataLoader(
                paired,
                batch_sampler=sampler,
                collate_fn=PairedCollator(self.stream_collator),
                num_workers=workers,
                pin_memory=self.args.dataloader_pin_memory,
                persistent_workers=self.args.dataloader_persistent_workers and workers > 0,
                prefetch_factor=self.args.dataloader_prefetch_factor,
            )
        )

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
            features, logits = features_and_logits(model, inputs)
            loss = self._task_loss(logits, inputs["labels"])
            return (loss, {"logits": logits}) if return_outputs else loss
        if model.training:
            keep_still(model)
        primary, harmful = inputs["primary"], inputs.get("harmful")
        n_primary = primary["labels"].shape[0]
        batch = primary if harmful is None else _joined(primary, harmful)
        features, logits = features_and_logits(model, batch)
        task = self._task_loss(logits[:n_primary], primary["labels"])
        parts = {"task_loss": task}
        if harmful is not None:
            harmful_labels = harmful.get("labels") if self.objective.needs_harmful_labels else None
            with torch.autocast(features.device.type, enabled=False):
                parts |= self._regularizers(features[:n_primary], features[n_primary:], harmful_labels)
        self._check_finite(parts)
        # DDP averages gradients over processes, but each holds only its own rows' share of a part over all rows.
        world = self.args.world_size
        loss = task + sum(part * world for name, part in parts.items() if name != "task_loss")
        if model.training:
            self._note(parts)
        return (loss, {"logits": logits[:n_primary]}) if return_outputs else loss

    def _regularizers(
        self, primary: torch.Tensor, harmful: torch.Tensor, harmful_labels: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        try:
            return self.objective(
                _over_processes(primary),
                _over_processes(harmful),
                None if harmful_labels is None else _over_processes(harmful_labels),
            )
        except (ValueError, torch.linalg.LinAlgError) as error:
            raise NonFiniteLossError(self._way_out(self.args.objective, str(error))) from error

    def _task_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits.float(), labels, label_smoothing=self.args.label_smoothing_factor)

    def _check_finite(self, parts: dict[str, torch.Tensor]) -> None:
        # One transfer from the device a step, not one for each part.
        finite = torch.isfinite(torch.stack([part.detach().double() for part in parts.values()])).tolist()
        for (name, part), good in zip(parts.items(), finite, strict=True):
            if not good:
                raise NonFiniteLossError(self._way_out(name, f"its value is {part.item()}"))

    def _way_out(self, part: str, reason: str) -> str:
        kept = "no checkpoint was written yet"
        if self.args.output_dir and any(Path(self.args.output_dir).glob("checkpoint-*")):
            kept = f"the checkpoints in {self.args.output_dir} are untouched; resume from the last one"
        return (
            f"Step {self.state.global_step + 1}: {part} is no longer finite ({reason}). λ_primary = "
            f"{self.args.lambda_primary:g}, λ_harmful = {self.args.lambda_harmful:g}, learning rate = "
            f"{self._get_learning_rate() if self.lr_scheduler is not None else self.args.learning_rate:g}. Lower the "
            f"learning rate or the λ of that part, or set max_grad_norm=1.0; {kept}."
        )

    # --------------------------------------------------------------- logging

    def _note(self, parts: dict[str, torch.Tensor]) -> None:
        for name, part in parts.items():
            self._parts[name] = self._parts.get(name, 0.0) + part.detach().double()
        self._parts_steps += 1

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the mean of each part of the loss since the last log; loss = task_loss + the parts."""
        if "loss" in logs and self._parts_steps:
            names = list(self._parts)
            means = torch.stack([self._parts[name].to(self.args.device) for name in names]) / self._parts_steps
            if self.args.world_size > 1:
                means = self.accelerator.reduce(means, reduction="mean")
            logs |= dict(zip(names, means.tolist(), strict=True))
            if self.args.world_size > 1:
                logs["loss"] = sum(means.tolist())
            self._parts, self._parts_steps = {}, 0
        super().log(logs, start_time)

    # ------------------------------------------------------------ evaluation

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """Primary loss and accuracy as the Trainer computes them, and RIR_θ0 with ranks beside them."""
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        dataloader = args[0] if args else kwargs["dataloader"]
        if metric_key_prefix.startswith("eval") and self._harmful_eval() is not None:
            rir = self._rir(dataloader.dataset)
            output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in rir.items()})
        return output

    def _harmful_eval(self) -> Any:
        return self.harmful_eval_dataset if self.harmful_eval_dataset is not None else self.harmful_dataset

    def _rir(self, primary: Any) -> dict[str, float]:
        protocol = Protocol(self.args.rir_groups, self.args.rir_group_size, self.args.seed)
        current = self._spectra(primary, protocol)
        key = f"{id(primary)}"
        if key not in self._initial_spectra:
            with self._theta_zero.put_back(unwrap(self.model)):
                self._initial_spectra[key] = self._spectra(primary, protocol)
        initial = self._initial_spectra[key]
        groups = [
            relative_immunization_ratio(*four)
            for four in zip(current["harmful"], initial["harmful"], current["primary"], initial["primary"], strict=True)
        ]
        means = {
            name: sum(getattr(group, name) for group in groups) / len(groups) for name in ("rir", "rir_i", "rir_ii")
        }
        ranks = {
            f"rir_rank_{name}": float(min(getattr(group, name).rank for group in groups))
            for name in ("initial_harmful", "immunized_harmful", "initial_primary", "immunized_primary")
        }
        bounded = sum(group.rir_bound != "exact" for group in groups)
        return {**means, **ranks, "rir_groups_with_bounds": float(bounded)}

    def _spectra(self, primary: Any, protocol: Protocol) -> dict[str, list[Spectrum]]:
        spectra = {}
        for task, data in (("primary", primary), ("harmful", self._harmful_eval())):
            rows = torch.randperm(len(data), generator=torch.Generator().manual_seed(self.args.seed))
            kept = Subset(data, rows[: self.args.rir_max_samples].tolist())
            extracted = extract_features(
                unwrap(self.model),
                kept,
                batch_size=self.args.per_device_eval_batch_size,
                device=self.args.device,
                collate=self.stream_collator,
                accelerator=self.accelerator,
                num_workers=self.args.dataloader_num_workers,
            )
            spectra[task] = group_spectra(extracted.features, protocol)
        return spectra

    # ------------------------------------------------- θ0, checkpoints, Hub

    def initial_state_dict(self) -> dict[str, torch.Tensor]:
        """All weights of θ0, on the CPU: those of this model with the trained ones put back."""
        return self._theta_zero.state_dict(unwrap(self.model))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            self._theta_zero.store(Path(self._get_output_dir(trial=trial)))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._load_by_current_names(resume_from_checkpoint)
        if not self._theta_zero.restore(Path(resume_from_checkpoint).resolve().parent):
            logger.warning("No θ0 is stored beside the checkpoint: θ0 is the model as it was passed in.")
        self._initial_spectra.clear()

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self._load_by_current_names(self.state.best_model_checkpoint)

    def _load_by_current_names(self, checkpoint: str) -> None:
        # `save_pretrained` writes some models (ViT is one) under older parameter names, and the Trainer reads them back
        # without renaming them: a warning alone says that nothing was loaded (transformers#43701).
        inner = unwrap(self.model)
        if isinstance(inner, PreTrainedModel):
            inner.load_state_dict(type(inner).from_pretrained(checkpoint, dtype=inner.dtype).state_dict())

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        token, self.args.hub_token = self.args.hub_token, None
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.args.hub_token = token

    def push_to_hub(
        self,
        commit_message: str | None = "Add immunized model",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **known: Any,
    ) -> Any:
        """Measures the model beside θ0 and uploads weights, record, figures and card in one commit.

        Args:
            commit_message: first line of the commit.
            blocking: must be true: there is one upload, and it is short.
            token: of the Hub; ``args.hub_token`` or the one that is logged in unless given.
            revision: a branch; ``args.hub_revision`` or main unless given.
            private: create the repository private; ``args.hub_private_repo`` unless given.
            known: fields of :class:`hf_immunize.ImmunizationRecord` that the trainer cannot know.

        Returns:
            the commit on the main process, None on the others.

        Raises:
            ValueError: nothing to measure with, no token, no write access.
        """
        from hf_immunize.release.hub import push_to_hub
        from hf_immunize.release.measure import record_of

        if not blocking:
            raise InputError("push_to_hub(blocking=False) is not supported: the release goes up in one short commit.")
        if not self.is_world_process_zero():
            return None
        return push_to_hub(
            unwrap(self.model),
            self.args.hub_model_id or Path(self.args.output_dir).name,
            record=record_of(self, **known),
            image_processor=self.processing_class,
            private=private if private is not None else self.args.hub_private_repo,
            token=token or self.args.hub_token,
            revision=revision or self.args.hub_revision,
            commit_message=commit_message,
        )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # A checkpoint has no measured card, and its training arguments would carry the token.
        logger.warning_once("Checkpoints are not pushed. Call trainer.push_to_hub() for the release.")

    # --------------------------------------------------------------- helpers

    @staticmethod
    def _active(objective: Objective) -> bool:
        return objective.uses_primary or objective.uses_harmful

    def _first_batches(self) -> dict[str, Any]:
        """Checks the first batch of each data set, and returns one to probe the model with."""
        checked: dict[str, dict[str, Any]] = {}
        sources = {
            "primary": self.train_dataset,
            "harmful": self.harmful_dataset,
            "primary evaluation": self.eval_dataset,
            "harmful evaluation": self.harmful_eval_dataset,
        }
        for name, data in sources.items():
            if data is None or isinstance(data, dict):
                continue
            PairedDataset(data, None)
            checked[name] = self.stream_collator([data[index] for index in range(min(2, len(data)))])
        if not checked:
            raise InputError("Pass train_dataset and harmful_dataset, or eval_dataset: there are no images to work on.")
        channels = {name: tuple(batch["pixel_values"].shape[1:]) for name, batch in checked.items()}
        if len(set(channels.values())) > 1:
            told = ", ".join(f"{name} {shape}" for name, shape in channels.items())
            raise InputError(
                f"All images must have one shape (C, H, W), got {told}. Use one image processor for both, and convert "
                "greyscale images with image.convert('RGB')."
            )
        sample = next(iter(checked.values()))
        on_device = {
            key: value.to(self.args.device) for key, value in sample.items() if isinstance(value, torch.Tensor)
        }
        self.model.to(self.args.device)
        n_classes = find_head(self.model, on_device).n_classes
        for name in ("primary", "primary evaluation"):
            if name not in checked:
                continue
            if "labels" not in checked[name]:
                raise InputError(f"The {name} data have no labels. Name the column of labels, or add one.")
            known = getattr(sources[name], "labels", None)
            check_labels(known if known is not None else checked[name]["labels"], n_classes, name)
        if self.objective.needs_harmful_labels and "harmful" in checked and "labels" not in checked["harmful"]:
            raise InputError(
                f"The objective {self.args.objective!r} needs harmful labels, and the harmful data have none."
            )
        return on_device


def _inputs(data: Any, image_processor: Any, labels_needed: bool) -> Any:
    if isinstance(data, dict):
        return {name: as_inputs(one, image_processor, labels_needed=labels_needed) for name, one in data.items()}
    return None if data is None else as_inputs(data, image_processor, labels_needed=labels_needed)


def _joined(primary: dict[str, Any], harmful: dict[str, Any]) -> dict[str, Any]:
    first, second = primary["pixel_values"], harmful["pixel_values"]
    if first.shape[1:] != second.shape[1:]:
        raise InputError(
            f"Primary images have shape {tuple(first.shape[1:])}, harmful ones {tuple(second.shape[1:])}. "
            "Use one image processor for both."
        )
    shared = [key for key in primary if key != "labels" and key in harmful]
    return {key: torch.cat([primary[key], harmful[key]]) for key in shared}


def _over_processes(rows: torch.Tensor) -> torch.Tensor:
    """The rows of all processes, with a gradient for this one's: the Gram is then the whole batch's, exactly."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows
    gathered = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, rows.detach().contiguous())
    gathered[dist.get_rank()] = rows
    return torch.cat(gathered)


def _accuracy(prediction: EvalPrediction) -> dict[str, float]:
    logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    return {"accuracy": float((logits.argmax(-1) == prediction.label_ids).mean())}
