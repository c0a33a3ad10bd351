"""The condition numbers themselves as an objective: a baseline of the paper."""

from __future__ import annotations

import torch

from hf_immunize.objectives.objective import Objective, Parts, weighted
from hf_immunize.spectra.eigen import Terms, of_features, shared_by_ties

__all__ = ["OptKappa", "OptLogKappa"]


class OptKappa(Objective):
    """λ_P κ(H_P) − λ_H κ(H_H), the condition numbers themselves: the baseline of arXiv 2505.23760, section 5.

    Args:
        lambda_primary: weight λ_P ≥ 0.
        lambda_harmful: weight λ_H ≥ 0.
        scale_free: without effect, κ has no scale; accepted so that all objectives are built alike.
        log: log κ in place of κ. With both weights equal the sum is then −log RIR up to a constant.

    The gradient moves only the largest and the smallest singular value above rounding.
    """

    name = "opt_kappa"
    without_effect = frozenset({"scale_free"})
    is_spectral = True

    def __init__(
        self, lambda_primary: float = 1.0, lambda_harmful: float = 1.0, scale_free: bool = True, log: bool = False
    ) -> None:
        super().__init__(lambda_primary, lambda_harmful, scale_free)
        self.log = bool(log)

    @property
    def _terms(self) -> Terms:
        return _log_kappa if self.log else _kappa

    def __call__(
        self,
        primary_features: torch.Tensor,
        harmful_features: torch.Tensor,
        harmful_labels: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """See :meth:`Objective.__call__`; the parts are ``kappa_primary`` and ``kappa_harmful`` (negative)."""
        parts = {}
        if self.uses_primary:
            parts["kappa_primary"] = self.lambda_primary * of_features(primary_features, self._terms)
        if self.uses_harmful:
            parts["kappa_harmful"] = -self.lambda_harmful * of_features(harmful_features, self._terms)
        return parts

    def spectral_parts(self, primary_values: torch.Tensor, harmful_values: torch.Tensor) -> Parts:
        """See :meth:`Objective.spectral_parts`."""
        parts: Parts = {}
        if self.uses_primary:
            parts["kappa_primary"] = weighted(self.lambda_primary, self._terms(primary_values))
        if self.uses_harmful:
            parts["kappa_harmful"] = weighted(-self.lambda_harmful, self._terms(harmful_values))
        return parts


class OptLogKappa(OptKappa):
    """λ_P log κ(H_P) − λ_H log κ(H_H): :class:`OptKappa` in logarithms, which no scale of κ drowns."""

    name = "opt_log_kappa"

    def __init__(self, lambda_primary: float = 1.0, lambda_harmful: float = 1.0, scale_free: bool = True) -> None:
        super().__init__(lambda_primary, lambda_harmful, scale_free, log=True)


def _kappa(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    log_value, log_slope = _log_kappa(values)
    return log_value.exp(), log_value.exp() * log_slope


def _log_kappa(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    slope = shared_by_ties(values, -1) / values[-1] - shared_by_ties(values, 0) / values[0]
    return values[-1].log() - values[0].log(), slope
