"""The best linear extractor in closed form, and the ceiling that no linear extractor passes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from numpy.typing import ArrayLike

from hf_immunize.linear.inputs import as_matrix, check_same_columns
from hf_immunize.spectra.spectrum import spectrum

__all__ = ["OptimalExtractor", "optimal_linear_extractor"]


@dataclass(frozen=True)
class OptimalExtractor:
    """What :func:`optimal_linear_extractor` returns; unpacks to ``theta, ceiling``.

    Attributes:
        theta: shape (D, D), invertible, float64.
        ceiling: the RIR of ``theta`` against the identity.
        bounded: True where no invertible θ has a larger RIR than ``ceiling``.
        spread: λ_max/λ_min of the generalised eigenproblem on the directions that both tasks use.
        shared: the number of these directions.
        meaning: what the ceiling says for these data, in one sentence.
    """

    theta: torch.Tensor = field(repr=False)
    ceiling: float
    bounded: bool
    spread: float
    shared: int
    meaning: str

    def __iter__(self) -> Iterator[Any]:
        return iter((self.theta, self.ceiling))


def optimal_linear_extractor(x_primary: ArrayLike, x_harmful: ArrayLike) -> OptimalExtractor:
    """The θ with the largest RIR that a linear extractor f(x) = xᵀθ can have, and that RIR.

    For non-singular K_P, K_H and invertible θ, κ(θᵀK_Hθ)/κ(θᵀK_Pθ) ≤ λ_max/λ_min of K_P⁻¹K_H
    (Ostrowski's inequality with the primary whitened), so RIR ≤ κ(K_P⁻¹K_H)·κ_P(I)/κ_H(I). The generalised
    eigenvectors of (K_H, K_P) attain it: θᵀK_Pθ = I and θᵀK_Hθ is diagonal.

    Where K_P or K_H is singular, the problem is that on the span. Directions that only the primary task uses change
    nothing. Directions that only the harmful task uses can be scaled at no primary cost, so the RIR has no upper bound
    (``bounded`` is False): the ceiling is then what the directions used by both tasks allow, with the others scaled
    to lie between them.

    Args:
        x_primary: shape (n_P, D), numbers; a data frame keeps its column names in messages.
        x_harmful: shape (n_H, D).

    Raises:
        TypeError: not tables of numbers.
        ValueError: different widths, NaN cells (the columns are named), all-zero data.

    Example:
        >>> theta, ceiling = optimal_linear_extractor(torch.diag(torch.tensor([2.0, 1.0])), torch.eye(2))
        >>> round(ceiling, 9)
        16.0
    """
    x_p, _ = as_matrix(x_primary, "x_primary")
    x_h, _ = as_matrix(x_harmful, "x_harmful")
    check_same_columns(x_p, x_h)
    primary, harmful = spectrum(x_p), spectrum(x_h)
    x_h = x_h / harmful.eigenvalues[-1].sqrt()

    _, values, right = torch.linalg.svd(x_p, full_matrices=True)
    rank_p = primary.rank
    values, seen, unseen = values[:rank_p], right[:rank_p].mT, right[rank_p:].mT
    whitening = seen / values

    # The primary null space is known up to rounding of s_1/s_r, and so is what the harmful data does in it.
    floor = min(primary.tolerance * float(values[0] / values[-1]), 1e-6) if rank_p < x_p.shape[1] else 0.0
    left, only_h, inside = torch.linalg.svd(x_h @ unseen, full_matrices=True)
    harmful_only = int((only_h > max(floor, harmful.tolerance)).sum())
    left, only_h = left[:, :harmful_only], only_h[:harmful_only]
    kept, free = inside[:harmful_only].mT, inside[harmful_only:].mT

    # Directions are chosen up to the primary null space: what the harmful data sees there is taken out.
    response = x_h @ whitening
    explained = left.mT @ response
    whitening = whitening - unseen @ (kept / only_h) @ explained
    response = response - left @ explained
    shared = min(max(harmful.rank - harmful_only, 0), rank_p)
    _, scales, rotation = torch.linalg.svd(response, full_matrices=True)
    scales = scales[:shared]
    middle = (scales[0] * scales[-1]).sqrt() if shared else 1.0
    theta = torch.cat([whitening @ rotation.mT, unseen @ (kept / only_h * middle), unseen @ free], dim=1)
    spread = float((scales[0] / scales[-1]).square()) if shared else 1.0
    ceiling = spread * primary.condition_number / harmful.condition_number
    return OptimalExtractor(
        theta=theta,
        ceiling=ceiling,
        bounded=harmful_only == 0,
        spread=spread,
        shared=shared,
        meaning=_meaning(x_p.shape[1], rank_p, harmful.rank, shared, harmful_only),
    )


def _meaning(width: int, rank_p: int, rank_h: int, shared: int, harmful_only: int) -> str:
    if rank_p == rank_h == width:
        return "K_P and K_H are non-singular: no invertible linear extractor has a larger RIR."
    ranks = f"On the span (rank {rank_p} primary, {rank_h} harmful of {width}; {shared} directions used by both): "
    if not harmful_only:
        return ranks + "no invertible linear extractor has a larger RIR."
    return ranks + (
        f"{harmful_only} harmful direction(s) lie outside the primary span and can be scaled at no primary cost, so "
        "RIR has no upper bound; the ceiling is what the shared directions allow, and a share above 1 is possible."
    )
