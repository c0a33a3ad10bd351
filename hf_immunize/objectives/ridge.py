"""The best linear head, exactly: what ridge regression in closed form predicts of harmful labels, held down."""

from __future__ import annotations

import torch
from torch.nn import functional

from hf_immunize.errors import InputError
from hf_immunize.objectives.objective import Objective, checked_positive
from hf_immunize.spectra.regularizers import features_r_well

__all__ = ["Ridge", "ridge_alignment", "ridge_head"]


class Ridge(Objective):
    """λ_P R_well(H_P) + λ_H · what a ridge fit of one half of the harmful batch says of the other half.

    An attacker with a linear head has at most the best linear head; here it is fitted in closed form on each half of
    the batch, with the gradient taken through the fit, and :func:`ridge_alignment` of its predictions is lowered.

    Args:
        lambda_primary: weight λ_P ≥ 0 of R_well; 0 leaves the best head alone.
        lambda_harmful: weight λ_H ≥ 0.
        scale_free: of R_well; the ridge fit is free of scale in any case.
        penalty: of the fit, in units of the mean eigenvalue of its Gram.

    Raises:
        ValueError: a penalty that is not positive, and at the call missing labels or a batch of fewer than four.
    """

    name = "ridge"
    needs_harmful_labels = True

    def __init__(
        self,
        lambda_primary: float = 1.0,
        lambda_harmful: float = 1.0,
        scale_free: bool = True,
        penalty: float = 0.1,
    ) -> None:
        super().__init__(lambda_primary, lambda_harmful, scale_free)
        self.penalty = checked_positive("penalty", penalty)

    def __call__(
        self,
        primary_features: torch.Tensor,
        harmful_features: torch.Tensor,
        harmful_labels: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """See :meth:`Objective.__call__`; the parts are ``r_well`` and ``ridge``."""
        parts = {}
        if self.uses_primary:
            parts["r_well"] = self.lambda_primary * features_r_well(primary_features, self.scale_free)
        if self.uses_harmful:
            if harmful_labels is None:
                raise InputError("The objective 'ridge' fits a harmful head and needs the labels of the harmful data.")
            alignment = ridge_alignment(harmful_features, harmful_labels, self.penalty)
            parts["ridge"] = self.lambda_harmful * alignment.relu()
        return parts


def ridge_alignment(features: torch.Tensor, labels: torch.Tensor, penalty: float) -> torch.Tensor:
    """How well each half of the rows predicts the other by ridge regression: 1 exactly, 0 not at all.

    Features and one-hot labels Y are centred by the half that is fitted; of the other half's predictions P the
    alignment is ⟨P, Y⟩ / ‖Y‖², the mean of both ways round.

    Args:
        features: shape (n, d), n ≥ 4.
        labels: shape (n,) of class numbers, or (n,) or (n, m) of floats.
        penalty: in units of the mean eigenvalue of the fit's Gram.

    Returns:
        a scalar, differentiable in the features.

    Raises:
        ValueError: fewer than four rows, or not as many labels.
    """
    n = features.shape[0]
    if n < 4 or labels.shape[:1] != (n,):
        raise InputError(
            f"A ridge fit of one half needs four rows or more and as many labels, got {n} and {tuple(labels.shape)}."
        )
    rows = features.double()
    targets = labels if labels.is_floating_point() else functional.one_hot(labels.long())
    targets = targets.double().reshape(n, -1)
    first, second = slice(0, n // 2), slice(n // 2, n)
    return (_predicted(rows, targets, first, second, penalty) + _predicted(rows, targets, second, first, penalty)) / 2


def ridge_head(rows: torch.Tensor, targets: torch.Tensor, penalty: float) -> torch.Tensor:
    """The head (d, m) that ridge regression fits to centred rows (n, d) and targets (n, m), from the n × n Gram.

    The penalty is in units of the mean eigenvalue of the Gram.
    """
    gram = rows @ rows.mT
    ridge = penalty * gram.diagonal().mean() + torch.finfo(rows.dtype).tiny
    penalised = gram + ridge * torch.eye(len(rows), dtype=rows.dtype, device=rows.device)
    return rows.mT @ torch.linalg.solve(penalised, targets)


def _predicted(rows: torch.Tensor, targets: torch.Tensor, fit: slice, other: slice, penalty: float) -> torch.Tensor:
    mean, centre = rows[fit].mean(dim=0), targets[fit].mean(dim=0)
    x, z, y = rows[fit] - mean, rows[other] - mean, targets[fit] - centre
    predictions, wanted = z @ ridge_head(x, y, penalty), targets[other] - centre
    return (predictions * wanted).sum() / wanted.square().sum().clamp_min(torch.finfo(rows.dtype).tiny)
