"""The paper's objective, and its two terms alone."""

from __future__ import annotations

import torch

from hf_immunize.objectives.objective import Objective, Parts, checked_weight, weighted
from hf_immunize.spectra.regularizers import (
    features_r_ill,
    features_r_well,
    raw_ill,
    raw_well,
    scale_free_ill,
    scale_free_well,
)

__all__ = ["Condition", "RIllOnly", "RWellOnly"]


class Condition(Objective):
    """λ_P R_well(H_P) + λ_H R_ill(H_H): the paper's objective (Zheng et al., ICML 2025, arXiv 2505.23760, section 4).

    Example:
        >>> x = torch.diag(torch.tensor([2.0, 1.0]))
        >>> sorted(Condition()(x, x))
        ['r_ill', 'r_well']
    """

    name = "condition"
    is_spectral = True
    preconditioned = True

    def __call__(
        self,
        primary_features: torch.Tensor,
        harmful_features: torch.Tensor,
        harmful_labels: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """See :meth:`Objective.__call__`; the parts are ``r_well`` and ``r_ill``."""
        parts = {}
        if self.uses_primary:
            parts["r_well"] = self.lambda_primary * features_r_well(primary_features, self.scale_free)
        if self.uses_harmful:
            parts["r_ill"] = self.lambda_harmful * features_r_ill(harmful_features, self.scale_free)
        return parts

    def spectral_parts(self, primary_values: torch.Tensor, harmful_values: torch.Tensor) -> Parts:
        """See :meth:`Objective.spectral_parts`."""
        well, ill = (scale_free_well, scale_free_ill) if self.scale_free else (raw_well, raw_ill)
        parts: Parts = {}
        if self.uses_primary:
            parts["r_well"] = weighted(self.lambda_primary, well(primary_values))
        if self.uses_harmful:
            parts["r_ill"] = weighted(self.lambda_harmful, ill(harmful_values))
        return parts


class RIllOnly(Condition):
    """λ_H R_ill(H_H) alone: the paper's ablation with λ_P = 0 (arXiv 2505.23760, section 5).

    ``lambda_primary`` is accepted, so that all objectives are built alike, and set to zero.
    """

    name = "r_ill_only"
    without_effect = frozenset({"lambda_primary"})

    def __init__(self, lambda_primary: float = 0.0, lambda_harmful: float = 1.0, scale_free: bool = True) -> None:
        checked_weight("lambda_primary", lambda_primary)
        super().__init__(0.0, lambda_harmful, scale_free)


class RWellOnly(Condition):
    """λ_P R_well(H_P) alone, on the primary features: what conditioning as such does to the harmful task.

    R_well is the regularizer of Nenov et al. (arXiv 2410.00169), who use it for numerical stability.
    ``lambda_harmful`` is accepted, so that all objectives are built alike, and set to zero.
    """

    name = "r_well_only"
    without_effect = frozenset({"lambda_harmful"})

    def __init__(self, lambda_primary: float = 1.0, lambda_harmful: float = 0.0, scale_free: bool = True) -> None:
        checked_weight("lambda_harmful", lambda_harmful)
        super().__init__(lambda_primary, 0.0, scale_free)
