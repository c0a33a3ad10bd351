"""Steps of a training whose loss and gradient are finite numbers, or that say at which step they were not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from hf_immunize.errors import UserError
from hf_immunize.training.checks import check_gradients
from hf_immunize.training.trainer_part import TrainerPart

__all__ = ["FiniteSteps", "NonFiniteLossError"]


class NonFiniteLossError(UserError, FloatingPointError):
    """The task loss or a regularizer is no longer a finite number."""


class FiniteSteps(TrainerPart):
    """The part of a Trainer that stops where a loss or a gradient is no longer finite."""

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

    def _get_grad_norm(self, model: nn.Module, grad_norm: torch.Tensor | float | None = None) -> Any:
        if self.state.global_step == 0:
            check_gradients(self._network)
        norm = super()._get_grad_norm(model, grad_norm)
        # Clipping would turn such a step into none without a word. With fp16 the scaler skips it and goes on.
        if not self.args.fp16 and norm is not None and not torch.isfinite(torch.as_tensor(norm)):
            raise NonFiniteLossError(self._way_out("the gradient", f"its norm is {float(norm)}"))
        return norm
