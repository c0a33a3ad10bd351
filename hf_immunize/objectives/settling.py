"""Objectives that end like the paper's: the whole network first, then the spectra with the last block alone."""

from __future__ import annotations

from collections.abc import Callable

import torch

from hf_immunize.errors import InputError
from hf_immunize.objectives.condition import Condition
from hf_immunize.objectives.objective import ModelObjective, Phase, StepView

__all__ = ["Settling"]


class Settling(ModelObjective):
    """Base class: over the last ``settling`` share of the steps the last block alone trains, by R_well and R_ill.

    The learning rate starts anew there, unless the subclass says otherwise. That is against heads, as
    :class:`~hf_immunize.objectives.condition.Condition` is; how far it holds depends on what came before.

    Args:
        lambda_primary: weight λ_P ≥ 0 of R_well while settling.
        lambda_harmful: weight λ_H ≥ 0.
        scale_free: of the regularizers.
        settling: share of the run's steps, below 1.
        r_ill: weight of R_ill beside λ_H.

    Raises:
        ValueError: a share outside 0 to 1.
    """

    def __init__(
        self, lambda_primary: float, lambda_harmful: float, scale_free: bool, settling: float, r_ill: float = 1.0
    ) -> None:
        super().__init__(lambda_primary, lambda_harmful, scale_free)
        if not 0 <= settling < 1:
            raise InputError(f"settling must be a share of the steps, from 0 to below 1, got {settling!r}.")
        self.settling = settling
        self._condition = Condition(lambda_primary, r_ill * lambda_harmful, scale_free)

    @property
    def restart(self) -> float | None:
        """See :attr:`ModelObjective.restart`."""
        return 1 - self.settling if self.settling else None

    @property
    def first_phase(self) -> Phase:
        """What the steps before settling are like."""
        raise NotImplementedError

    def first_parts(self, step: StepView, gather: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, torch.Tensor]:
        """:meth:`ModelObjective.of_step` before settling."""
        raise NotImplementedError

    def phase(self, progress: float) -> Phase:
        """See :meth:`ModelObjective.phase`."""
        return Phase(last_block_alone=True) if self._settles(progress) else self.first_phase

    def of_step(self, step: StepView, gather: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, torch.Tensor]:
        """See :meth:`ModelObjective.of_step`; settling, the parts are ``r_well`` and ``r_ill``."""
        if self._settles(step.progress):
            return self._condition(gather(step.primary_features), gather(step.harmful_features))
        return self.first_parts(step, gather)

    def _settles(self, progress: float) -> bool:
        # Shares are rounded.
        return progress >= 1 - self.settling - 1e-9
