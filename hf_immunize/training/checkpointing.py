"""Checkpoints of an immunization: θ0 beside them, weights read back by today's names, no token on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, Trainer
from transformers.trainer_utils import SaveStrategy

from hf_immunize.errors import InputError
from hf_immunize.models.forward import unwrap
from hf_immunize.training.ratio_in_mid_run import RatioInMidRun
from hf_immunize.training.theta_zero import ThetaZero

__all__ = ["CheckpointsWithThetaZero"]


class CheckpointsWithThetaZero(Trainer):
    """The part of a Trainer that writes and reads checkpoints."""

    model: nn.Module
    _theta_zero: ThetaZero
    _ratio: RatioInMidRun

    def initial_state_dict(self) -> dict[str, torch.Tensor]:
        """All weights of θ0, on the CPU: those of this model with the trained ones put back."""
        return self._theta_zero.state_dict(unwrap(self.model))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        # θ0 first: a run that is killed between the two must not resume from a checkpoint without it.
        if self.args.should_save:
            self._theta_zero.store(Path(self._get_output_dir(trial=trial)))
        super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._load_by_current_names(resume_from_checkpoint)
        if not self._theta_zero.restore(Path(resume_from_checkpoint).resolve().parent):
            raise InputError(
                f"No θ0 is stored beside {resume_from_checkpoint}, so what a resumed run reports would be against "
                "other weights. Start anew."
            )
        self._ratio = RatioInMidRun()

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        is_best = super()._determine_best_metric(metrics, trial)
        # Where evaluations are more frequent than checkpoints, the best one would otherwise be told and not be there.
        if is_best and self.args.load_best_model_at_end and self.args.save_strategy != SaveStrategy.NO:
            self.control.should_save = True
        return is_best

    def _load_best_model(self) -> None:
        super()._load_best_model()
        assert self.state.best_model_checkpoint is not None, "or the Trainer would not have come here"
        self._load_by_current_names(self.state.best_model_checkpoint)

    def _load_by_current_names(self, checkpoint: str) -> None:
        # `save_pretrained` writes some models (ViT is one) under older parameter names, and the Trainer reads them back
        # without renaming them: a warning alone says that nothing was loaded (transformers#43701).
        inner = unwrap(self.model)
        if isinstance(inner, PreTrainedModel):
            inner.load_state_dict(type(inner).from_pretrained(checkpoint, dtype=inner.dtype).state_dict())

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if state_dict is None and not isinstance(unwrap(self.model), PreTrainedModel):
            # safetensors refuses a tensor that two modules share; a copy under each of its names reads back the same.
            state_dict = {name: value.to("cpu", copy=True) for name, value in self.model.state_dict().items()}
        token, self.args.hub_token = self.args.hub_token, None
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.args.hub_token = token
