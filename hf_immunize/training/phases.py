"""What of a training changes where its objective begins something else: what trains, and the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, get_scheduler
from transformers.trainer_utils import TrainOutput

from hf_immunize.models.forward import unwrap
from hf_immunize.models.trainable import select_trainable
from hf_immunize.objectives.objective import ModelObjective, Objective
from hf_immunize.training.arguments import ImmunizationArguments
from hf_immunize.training.seeing import Architecture

__all__ = ["Phased", "restarted"]


class Phased(Trainer):
    """The part of a Trainer that serves objectives of several phases."""

    args: ImmunizationArguments
    model: nn.Module
    objective: Objective
    _architecture: Architecture
    _narrowed = False

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """The schedule of the arguments, begun anew where the objective says so."""
        share = self.objective.restart if isinstance(self.objective, ModelObjective) else None
        if share is not None and self.lr_scheduler is None:
            given = cast(torch.optim.Optimizer, self.optimizer if optimizer is None else optimizer)
            self.lr_scheduler = restarted(self.args, given, num_training_steps, share)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def narrow(self, last_block: bool) -> None:
        """Narrows what trains to the last block, once, or gives back what was chosen."""
        if last_block == self._narrowed:
            return
        self._narrowed = last_block
        model = unwrap(self.model)
        select_trainable(model, self.args.selection, self._architecture.sample)
        if last_block:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(parameter.requires_grad and name in self._architecture.last_block)

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """As the Trainer's; what was chosen to train is given back at the end."""
        try:
            return super().train(*args, **kwargs)
        finally:
            self.narrow(False)


def restarted(
    args: ImmunizationArguments, optimizer: torch.optim.Optimizer, steps: int, share: float
) -> LambdaLR | None:
    """The schedule of the arguments twice: over the first ``share`` of the steps, and over the others.

    Returns:
        None where the schedule is no function of the step alone.
    """
    first = math.ceil(share * steps - 1e-9)
    before, after = (_factor(args, one) for one in (first, steps - first))
    if before is None or after is None:
        return None
    return LambdaLR(optimizer, lambda step: before(step) if step < first else after(step - first))


def _factor(args: ImmunizationArguments, steps: int) -> Callable[[int], float] | None:
    """Step → share of the peak learning rate."""
    nobody = torch.optim.SGD([torch.zeros((), requires_grad=True)], lr=1.0)
    made = get_scheduler(
        args.lr_scheduler_type,
        optimizer=nobody,
        num_warmup_steps=args.get_warmup_steps(steps),
        num_training_steps=max(steps, 1),
        scheduler_specific_kwargs=cast(dict[str, Any] | None, args.lr_scheduler_kwargs),
    )
    return made.lr_lambdas[0] if isinstance(made, LambdaLR) else None
