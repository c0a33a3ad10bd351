"""Checkpoints of an immunization: whole or not there, θ0 beside them, gone on from exactly or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import SaveStrategy, TrainOutput, rotate_checkpoints
from transformers.utils import SAFE_WEIGHTS_NAME, logging

from hf_immunize.errors import InputError, writing
from hf_immunize.models.rebuilding import write_timm_config
from hf_immunize.training.carried import data_digest, model_digest, options_of, refuse_others
from hf_immunize.training.locking import locked
from hf_immunize.training.logged_parts import LoggedParts
from hf_immunize.training.ratio_in_mid_run import RatioInMidRun
from hf_immunize.training.whole_checkpoints import (
    Checkpoint,
    clear_unfinished,
    holds_by_current_names,
    last_whole,
    put_in_place,
    unfinished,
    wanted_checkpoint,
)

__all__ = ["CheckpointsWithThetaZero"]

#: What an objective carries from step to step, in a checkpoint.
OBJECTIVE_NAME = "objective.pt"

logger = logging.get_logger(__name__)


class CheckpointsWithThetaZero(LoggedParts):
    """The part of a Trainer that writes and reads checkpoints.

    Attributes:
        further_options: what decides the weights beside the arguments, the data and the model; checkpoints carry it.
        seconds: that training took, in this process and in those that it goes on from.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.further_options: dict[str, Any] = {}
        self.seconds = 0.0
        self._began = 0.0
        self._facts: dict[str, Any] = {}
        self._goes_on_from: Checkpoint | None = None
        self._writes_into: Path | None = None
        self.add_callback(_GoesOn(self))

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """As the Trainer's, in a folder that no other run writes into.

        Args:
            resume_from_checkpoint: a checkpoint, or true (or ``"last"``) for the last whole one of the output folder. A
                run that was finished does no step; one that was not ends as if it had never stopped.
            args: as the Trainer's.
            kwargs: as the Trainer's.

        Raises:
            InputError: no whole checkpoint, or one of a run with other options.
            OutputExistsError: another run writes into the output folder.
            OutputError: a checkpoint cannot be written; those before it are untouched.
        """
        resume_from_checkpoint = wanted_checkpoint(resume_from_checkpoint)
        if resume_from_checkpoint is None and self.args.resume_from_checkpoint:
            logger.warning(
                "This run starts anew: resume_from_checkpoint of the arguments is for whoever calls train(), as in the "
                "Trainer. Call train(resume_from_checkpoint=args.resume_from_checkpoint)."
            )
        folder = Path(self.args.output_dir or ".")
        writes = self.args.should_save and self.args.save_strategy != SaveStrategy.NO
        with locked(folder) if writes else contextlib.nullcontext():
            if writes:
                clear_unfinished(folder)
            if self.args.save_strategy != SaveStrategy.NO or resume_from_checkpoint:
                data = {"train_dataset": self.train_dataset, "harmful_dataset": self.harmful_dataset}
                self._facts = {name: data_digest(one, self.stream_collator) for name, one in data.items()}
                self._facts["model"] = model_digest(self._network, self._theta_zero.weights)
            found = self._goes_on_from = self._checkpoint(folder, resume_from_checkpoint)
            self.seconds = 0.0 if found is None else found.state["seconds"]
            self._began = time.perf_counter() - self.seconds
            if found is not None and found.state["finished"]:
                return self._as_finished(found)
            output = super().train(None if found is None else str(found.folder), *args, **kwargs)
            self.seconds = time.perf_counter() - self._began
            return output

    def _checkpoint(self, folder: Path, wanted: str | bool | None) -> Checkpoint | None:
        if not wanted:
            return None
        found = last_whole(folder) if wanted is True else Checkpoint.read(Path(wanted))
        if found is None:
            raise InputError(f"{folder} holds no checkpoint to go on from. Leave resume_from_checkpoint away.")
        if not found.state["goes_on"]:
            raise InputError(f"{found.folder} holds weights alone (save_only_model): no run goes on from it.")
        refuse_others(found.state["options"], self._carried_options(), str(found.folder))
        if self.budget is not None and found.state.get("budget") is None:
            raise InputError(
                f"{found.folder} is of a run without a budget. Leave max_accuracy_drop away, or start anew."
            )
        return found

    def _carried_options(self) -> dict[str, Any]:
        return options_of(self.args, **self._facts, **self.further_options)

    def _as_finished(self, found: Checkpoint) -> TrainOutput:
        """What a run that ended at this checkpoint left, without a step."""
        self._load_from_checkpoint(str(found.folder))
        self.state = TrainerState.load_from_json(str(found.folder / TRAINER_STATE_NAME))
        self.notes = list(found.state["notes"])
        self._restore(found)
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None:
            self._load_best_model()
        loss = (self._total_loss_scalar + self._tr_loss.item()) / max(self.state.global_step, 1)
        metrics = {"train_runtime": self.seconds, "train_loss": loss}
        self.log(metrics)
        return TrainOutput(self.state.global_step, loss, metrics)

    def _restore(self, found: Checkpoint) -> None:
        """What the Trainer forgets at a resume: where the best model is, and what was not logged yet."""
        self._sum_on_from(found.state["logged"])
        self._initial_global_step = 0
        if self.budget is not None:
            self.budget.restore(found.state["budget"], found.folder)
        if found.state["best"] is not None:
            self.state.best_model_checkpoint = str(found.folder.parent / found.state["best"])

    def _finalize_training(self, trial: Any, num_train_samples: int, start_time: float) -> TrainOutput:
        earlier = 0.0 if self._goes_on_from is None else self._goes_on_from.state["seconds"]
        return super()._finalize_training(trial, num_train_samples, start_time - earlier)

    # ------------------------------------------------------------------ writing

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._writes_into is None else str(self._writes_into)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run, step = Path(self._get_output_dir(trial)), self.state.global_step
        folder = run / f"checkpoint-{step}"
        last = max(run.glob("checkpoint-*"), key=os.path.getmtime, default=None)
        intact = "No checkpoint came before it" if last is None else f"{last} is untouched"
        advice = f"{intact}. Make room, or raise the limit on files, and go on with resume_from_checkpoint."
        logged = self._not_logged_yet()
        with writing(folder, advice):
            # θ0 first: a run that is killed between the two must not resume from a checkpoint without it.
            if self.args.should_save:
                self._theta_zero.store(run)
            self._writes_into = unfinished(folder).parent
            try:
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    self._finish_checkpoint(folder, logged)
            finally:
                if self.args.should_save:
                    shutil.rmtree(self._writes_into, ignore_errors=True)
                self._writes_into = None
            self.accelerator.wait_for_everyone()

    def _finish_checkpoint(self, folder: Path, logged: dict[str, Any]) -> None:
        best = f"checkpoint-{self.state.best_global_step}" if self.state.best_global_step else None
        if best is not None and (best == folder.name or (folder.parent / best).is_dir()):
            # Not the name that it had while it was written.
            self.state.best_model_checkpoint = str(folder.parent / best)
            self.state.save_to_json(str(unfinished(folder) / TRAINER_STATE_NAME))
        state = {
            "options": self._carried_options(),
            "finished": self.state.global_step >= self.state.max_steps,
            "goes_on": not self.args.save_only_model,
            "best": best if self.args.load_best_model_at_end else None,
            "seconds": time.perf_counter() - self._began,
            "notes": self.notes,
            "logged": logged,
            "budget": None if self.budget is None else self.budget.store(unfinished(folder)),
        }
        put_in_place(folder, state)
        rotate_checkpoints(
            output_dir=str(folder.parent),
            save_total_limit=self.args.save_total_limit,
            best_model_checkpoint=self.state.best_model_checkpoint,
            use_mtime=True,
        )

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        state = self.objective.state_dict()
        if state and self.args.should_save:
            torch.save(state, Path(output_dir) / OBJECTIVE_NAME)

    # ------------------------------------------------------------------ reading

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and (Path(checkpoint) / OBJECTIVE_NAME).is_file():
            where = self.args.device
            self.objective.load_state_dict(
                torch.load(Path(checkpoint) / OBJECTIVE_NAME, map_location=where, weights_only=True)
            )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        with self._names_told_later():
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._load_by_current_names(resume_from_checkpoint)
        self._theta_zero.restore(Path(resume_from_checkpoint).resolve().parent)
        self._ratio = RatioInMidRun()

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        is_best = super()._determine_best_metric(metrics, trial)
        # Where evaluations are more frequent than checkpoints, the best one would otherwise be told and not be there.
        if is_best and self.args.load_best_model_at_end and self.args.save_strategy != SaveStrategy.NO:
            self.control.should_save = True
        return is_best

    def _load_best_model(self) -> None:
        with self._names_told_later():
            super()._load_best_model()
        assert self.state.best_model_checkpoint is not None, "or the Trainer would not have come here"
        self._load_by_current_names(self.state.best_model_checkpoint)

    @contextlib.contextmanager
    def _names_told_later(self) -> Iterator[None]:
        # That weights are missing, which the Trainer says of older names, is no news where they are read again below.
        told = logging.get_logger("transformers.trainer")
        level = told.level
        try:
            if isinstance(self._network, PreTrainedModel):
                told.setLevel(logging.ERROR)
            yield
        finally:
            told.setLevel(level)

    def _load_by_current_names(self, checkpoint: str) -> None:
        # `save_pretrained` writes some models (ViT is one) under older parameter names, and the Trainer reads them back
        # without renaming them: a warning alone says that nothing was loaded (transformers#43701).
        inner = self._network
        if isinstance(inner, PreTrainedModel) and not holds_by_current_names(Path(checkpoint), inner.state_dict()):
            inner.load_state_dict(type(inner).from_pretrained(checkpoint, dtype=inner.dtype).state_dict())

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if state_dict is None and not isinstance(self._network, PreTrainedModel):
            # safetensors refuses a tensor that two modules share; a copy under each of its names reads back the same.
            state_dict = {name: value.to("cpu", copy=True) for name, value in self.model.state_dict().items()}
        token, self.args.hub_token = self.args.hub_token, None
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.args.hub_token = token
        inner = self._network
        if isinstance(inner, PreTrainedModel) and not self._rebuilds:
            # Its configuration describes another model, so that nothing but names as they are leads back to this one.
            folder = Path(output_dir or self.args.output_dir or ".")
            weights = inner.state_dict() if state_dict is None else state_dict
            own = {name: value.to("cpu", copy=True) for name, value in weights.items()}
            save_file(own, folder / SAFE_WEIGHTS_NAME, metadata={"format": "pt"})
        if hasattr(inner, "pretrained_cfg") and not isinstance(inner, PreTrainedModel):
            # As transformers does for its own models, so that the folder loads by itself.
            folder, preprocessing = Path(output_dir or self.args.output_dir or "."), self.processing_class
            write_timm_config(folder, inner, data_config=getattr(preprocessing, "data_config", None))


class _GoesOn(TrainerCallback):
    """Puts back what the Trainer resets before the first step of a run that goes on."""

    def __init__(self, trainer: CheckpointsWithThetaZero) -> None:
        self.trainer = trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        if self.trainer._goes_on_from is not None:
            self.trainer._restore(self.trainer._goes_on_from)
