"""How fast gradient descent fits a linear head: the norm ratio of the paper and the excess loss that is left."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from numpy.typing import ArrayLike

from hf_immunize.errors import InputError
from hf_immunize.linear.inputs import as_matrix
from hf_immunize.spectra.eigen import rank_floor

__all__ = ["DescentCurves", "descent_curves"]


@dataclass(frozen=True)
class DescentCurves:
    """Curves over the steps 0, 1, …, T.

    Attributes:
        norm_ratio: ‖w_t − w*‖²/‖w_0 − w*‖², w* the least-squares solution of minimum norm.
        excess_loss: (L(w_t) − L*)/(L(w_0) − L*).
    """

    norm_ratio: list[float]
    excess_loss: list[float]


def descent_curves(features: ArrayLike, targets: ArrayLike, steps: int = 100) -> DescentCurves:
    """Gradient descent from zero with the step 1/L on ½‖Xw − y‖², L = σ_max(XᵀX), in float64.

    Each component along a singular vector shrinks by (1 − s²/s_1²) a step, so the curves are exact for every t and
    no rounding builds up (arXiv 2505.23760, section 3).

    Args:
        features: X, shape (n, d).
        targets: y, shape (n,).
        steps: T ≥ 1.

    Raises:
        ValueError: ill-shaped targets, ``steps`` below 1, or targets orthogonal to the features (nothing to fit).
    """
    x, _ = as_matrix(features, "features")
    y = torch.as_tensor(targets).detach().cpu().double()
    if y.shape != (x.shape[0],) or not torch.isfinite(y).all():
        raise InputError(f"targets must hold one finite number for each of {x.shape[0]} rows, got {tuple(y.shape)}.")
    if steps < 1:
        raise InputError(f"steps must be at least 1, got {steps}.")
    left, values, _ = torch.linalg.svd(x, full_matrices=False)
    kept = values > rank_floor(*x.shape) * values[0]
    values, projected = values[kept], left[:, kept].mT @ y
    loss = projected.square()
    if float(loss.sum()) == 0.0:
        raise InputError("The targets are orthogonal to the features: there is nothing to fit.")
    distance = (projected / values).square()
    left_over = (1 - (values / values[0]).square())[None, :] ** (2 * torch.arange(steps + 1)[:, None])
    return DescentCurves(
        norm_ratio=(left_over @ distance / distance.sum()).tolist(),
        excess_loss=(left_over @ loss / loss.sum()).tolist(),
    )
