"""Least squares, exactly: the spectrum, where the labels lie in it, and how long gradient descent takes for it."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from hf_immunize.spectra.eigen import log_left_over, rank_floor

__all__ = ["SHARES", "decompose", "exact_steps"]

#: Shares of the excess loss that are left.
SHARES = (0.5, 0.1, 0.01)
#: Above this many steps the answer is that it does not happen.
MOST_STEPS = 10**15


def decompose(rows: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The singular value decomposition X = UΣVᵀ of rows (n, d), in float64, with UᵀY in place of U.

    Args:
        rows: X, (n, d).
        targets: Y, (n, c).

    Returns:
        singular values (r,) descending, Vᵀ (r, d) and UᵀY (r, c), r = min(n, d).
    """
    width, rank = rows.shape[1], min(rows.shape)
    # The triangular factor of [X Y] has QᵀY in its last columns, so that neither Q nor U is ever there.
    factor = torch.linalg.qr(torch.cat([rows.double(), targets.double()], dim=1), mode="r").R[:rank]
    left, values, directions = torch.linalg.svd(factor[:, :width], full_matrices=False)
    return values, directions, left.mT @ factor[:, width:]


def exact_steps(features: torch.Tensor, labels: torch.Tensor, n_classes: int) -> dict[float, int | None]:
    """Steps of gradient descent at 1/L from zero until a share of the excess least-squares loss is left.

    With X = UΣVᵀ and one-hot labels Y the excess loss after t steps is Σ_i (1 − s_i²/s_1²)^{2t} ‖u_iᵀY‖²/2, so κ alone
    does not decide: the labels' weight in the slow directions does (compare arXiv 2505.23760, section 3).

    Args:
        features: X, (n, d), worked out in float64; directions under the floor of rounding of its own precision are
            left out, so give it in float64 where small ones matter.
        labels: (n,) of 0 … n_classes − 1.
        n_classes: number of classes.

    Returns:
        for each of :data:`SHARES` the steps, None for more than 1e15; all None where the features are zero.
    """
    values, _, projections = decompose(features, F.one_hot(labels, n_classes))
    if not values[0] > 0:
        return dict.fromkeys(SHARES)
    kept = values > rank_floor(len(features), features.shape[1], features.dtype) * values[0]
    if not kept.any():
        # Half precision and many rows: all that there is may be rounding.
        return dict.fromkeys(SHARES)
    weight = projections[kept].square().sum(1)
    # The first direction is fitted in one step.
    decay = log_left_over(values[kept])

    def share(steps: int) -> float:
        left_over = torch.where(torch.isinf(decay), 0.0 if steps else 1.0, torch.exp(2 * steps * decay))
        return float((left_over * weight).sum() / weight.sum())

    found: dict[float, int | None] = {}
    for wanted in SHARES:
        low, high = 0, 1
        while high <= MOST_STEPS and share(high) > wanted:
            low, high = high, 2 * high
        if high > MOST_STEPS:
            found[wanted] = None
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if share(middle) > wanted else (low, middle)
        found[wanted] = high
    return found
