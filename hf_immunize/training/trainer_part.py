"""What the parts of `ImmunizationTrainer` know of each other, declared once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import Trainer
from transformers.utils import logging

from hf_immunize.models.activations import ActivationStore
from hf_immunize.models.copies import copied
from hf_immunize.models.forward import unwrap
from hf_immunize.models.frozen_prefix import FrozenPrefix
from hf_immunize.models.trainable import TrainableSelection
from hf_immunize.objectives.objective import Objective
from hf_immunize.training.arguments import ImmunizationArguments
from hf_immunize.training.budget import AccuracyBudget
from hf_immunize.training.ratio_in_mid_run import RatioInMidRun
from hf_immunize.training.seeing import Architecture
from hf_immunize.training.theta_zero import ThetaZero

__all__ = ["TrainerPart"]

logger = logging.get_logger(__name__)


class TrainerPart(Trainer):
    """A Trainer with a harmful stream; each part of it is a subclass, and `ImmunizationTrainer` is one of all of them.

    Attributes:
        objective: what is added to the task loss.
        harmful_dataset: model inputs, or None.
        harmful_eval_dataset: likewise.
        stream_collator: of one stream, from samples to a batch.
        own_task_loss: in place of the primary task's cross-entropy.
        selection: what trains.
        notes: what was chosen for the user, in sentences.
        budget: of primary accuracy, where one is asked for.
    """

    args: ImmunizationArguments
    model: nn.Module
    objective: Objective
    train_dataset: Any
    harmful_dataset: Any
    harmful_eval_dataset: Any
    stream_collator: Callable[[list[Any]], Any]
    own_task_loss: Callable[..., torch.Tensor] | None
    selection: TrainableSelection
    notes: list[str]
    budget: AccuracyBudget | None = None

    _n_classes: int
    _architecture: Architecture
    _theta_zero: ThetaZero
    _ratio: RatioInMidRun
    _activations: ActivationStore
    _prefix: FrozenPrefix | None
    #: Optimizer and schedule of the user's own, or None.
    _given: tuple[torch.optim.Optimizer | None, Any]
    #: Primary rows that are held out for a budget.
    _held_out: Any
    #: Sums of the parts of the loss since the last line of the log, and of how many steps.
    _parts: dict[str, torch.Tensor]
    _parts_steps: int
    #: Whether a folder of the model, saved, loads as it.
    _rebuilds = True

    @property
    def _network(self) -> nn.Module:
        """The classifier itself, out of what wraps it for distributed training."""
        return unwrap(self.model)

    @property
    def _is_active(self) -> bool:
        """Whether the objective adds anything; plain fine-tuning where it does not."""
        return self.objective.uses_primary or self.objective.uses_harmful

    def _note(self, note: str) -> None:
        """Notes something that was chosen for the user."""
        self.notes.append(note)

    def _say(self, note: str) -> None:
        """Notes it, with a warning."""
        self._note(note)
        logger.warning(note)

    def initial_state_dict(self) -> dict[str, torch.Tensor]:
        """All weights of θ0, on the CPU: those of this model with the trained ones put back."""
        return self._theta_zero.state_dict(self._network)

    def initial_model(self) -> nn.Module:
        """θ0 as a model of its own."""
        initial = copied(self._network)
        initial.load_state_dict(self.initial_state_dict())
        return initial
