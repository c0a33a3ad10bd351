"""Purge: the weights are moved towards random ones, and what the primary task needs of them is taught again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

from hf_immunize.errors import InputError
from hf_immunize.models.random_weights import random_weights
from hf_immunize.objectives.condition import Condition
from hf_immunize.objectives.objective import ModelObjective, Objective, Phase, StepView

__all__ = ["Purge", "distillation"]


class Purge(ModelObjective):
    """Shrink and perturb, then distil (after UNDO, Lee et al., NeurIPS 2025, arXiv 2506.06278), then condition.

    Before the first step every weight w that trains becomes (1 − a) w + a · (a fresh draw by its module's own rule);
    BatchNorms then get statistics of primary images. In the first phase KL(θ0's prediction ‖ the model's) on primary
    images takes the place of the labels' cross-entropy, and harmful images are not looked at: what only they need is
    not taught again. Over the last ``settling`` share of the steps the last block alone trains, by the labels, R_well
    and R_ill, with a learning rate and an optimizer that begin anew. UNDO suppresses unwanted outputs before it
    perturbs; a classifier's logits are of primary classes alone, and θ0 itself teaches here.

    A step of the first phase costs one forward pass of the primary batch more. θ0's weights are kept where the model
    is. It is retraining in part: a larger ``strength`` leaves less to an attacker, and takes more steps to come back.

    Args:
        lambda_primary: weight λ_P ≥ 0 of R_well while settling.
        lambda_harmful: weight λ_H ≥ 0 of R_ill while settling; with both zero nothing is purged.
        scale_free: of the regularizers.
        strength: the share a, from 0 to 1.
        settling: share of the run's steps, below 1.

    Raises:
        ValueError: a share outside 0 to 1.
    """

    name = "purge"
    defaults: ClassVar[Mapping[str, Any]] = {**Objective.defaults, "max_steps": 600, "trainable": ["all"]}
    begins_elsewhere = True
    # The first phase asks for something else than the second.
    tells_strength = False

    def __init__(
        self,
        lambda_primary: float = 1.0,
        lambda_harmful: float = 0.3,
        scale_free: bool = True,
        strength: float = 0.6,
        settling: float = 0.5,
    ) -> None:
        super().__init__(lambda_primary, lambda_harmful, scale_free)
        if not 0 <= settling < 1:
            raise InputError(f"settling must be a share of the steps, from 0 to below 1, got {settling!r}.")
        if not 0 <= strength <= 1:
            raise InputError(f"strength must be the share of random weights, from 0 to 1, got {strength!r}.")
        self.strength, self.settling = strength, settling
        self._condition = Condition(lambda_primary, lambda_harmful, scale_free)

    @torch.no_grad()
    def begin(self, model: nn.Module, seed: int) -> None:
        """See :meth:`ModelObjective.begin`."""
        fresh = dict(random_weights(model, seed=seed).named_parameters())
        for name, one in model.named_parameters():
            if one.requires_grad:
                one.lerp_(fresh[name], self.strength)

    @property
    def settles_from(self) -> float | None:
        """See :attr:`ModelObjective.settles_from`."""
        return 1 - self.settling if self.settling else None

    def phase(self, progress: float) -> Phase:
        """See :meth:`ModelObjective.phase`."""
        return Phase() if self.settles(progress) else Phase(harmful_features=False, labels=False)

    def of_step(self, step: StepView, gather: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, torch.Tensor]:
        """See :meth:`ModelObjective.of_step`: ``distillation`` in nats; then ``r_well`` and ``r_ill``."""
        if self.settles(step.progress):
            return self._condition(gather(step.primary_features), gather(step.harmful_features))
        return {"distillation": distillation(gather(step.primary_logits), gather(step.initial_logits()))}


def distillation(logits: torch.Tensor, initial: torch.Tensor) -> torch.Tensor:
    """Mean KL divergence of predictions from a teacher's, KL(teacher ‖ model), in nats.

    Args:
        logits: of the model, shape (n, classes).
        initial: of the teacher, likewise.
    """
    ours, theirs = (functional.log_softmax(one.float(), dim=1) for one in (logits, initial))
    return functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)
