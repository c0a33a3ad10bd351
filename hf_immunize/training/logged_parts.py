"""The parts of the loss in the log: sums over the steps since its last line, which a checkpoint carries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from hf_immunize.errors import InputError
from hf_immunize.training.trainer_part import TrainerPart

__all__ = ["LoggedParts", "with_own_parts"]

#: What a line of the log holds beside the parts of an objective.
TAKEN = ("loss", "task_loss", "grad_norm", "learning_rate", "epoch", "step")


def with_own_parts(parts: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The parts of a loss and those of an objective.

    Raises:
        InputError: one of an objective's own is called as something else in the log.
    """
    clash = sorted(own.keys() & (parts.keys() | set(TAKEN)))
    if clash:
        raise InputError(
            f"The objective calls a part of its loss {clash[0]!r}, under which the Trainer keeps another figure. Call "
            f"it otherwise; {', '.join(TAKEN)} are taken."
        )
    return {**parts, **own}


class LoggedParts(TrainerPart):
    """The part of a Trainer that logs the parts of its loss."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._parts, self._parts_steps = {}, 0

    def _count(self, parts: dict[str, torch.Tensor]) -> None:
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
            logs |= {} if self.budget is None else self.budget.figures
        super().log(logs, start_time)

    def _not_logged_yet(self) -> dict[str, Any]:
        """Sums since the last line of the log, as the mean over the processes."""
        loss, *parts = (
            self.accelerator.reduce(one.detach().to(self.args.device), reduction="mean").item()
            for one in (self._tr_loss, *self._parts.values())
        )
        return {
            "loss": loss,
            "total": self._total_loss_scalar,
            "step": self._globalstep_last_logged,
            "parts": dict(zip(self._parts, parts, strict=True)),
            "parts_steps": self._parts_steps,
        }

    def _sum_on_from(self, logged: Mapping[str, Any]) -> None:
        """Goes on from what :meth:`_not_logged_yet` gave."""
        self._tr_loss = torch.tensor(logged["loss"], device=self.args.device)
        self._total_loss_scalar, self._globalstep_last_logged = logged["total"], logged["step"]
        self._parts = {name: torch.tensor(one, dtype=torch.float64) for name, one in logged["parts"].items()}
        self._parts_steps = logged["parts_steps"]
