"""Rows that small singular values hang on, kept while the rows of a matrix go by."""

from __future__ import annotations

import torch

from hf_immunize.spectra.eigen import as_float64
from hf_immunize.spectra.factor import FeatureFactor

__all__ = ["HeavyRows", "leverage"]

#: Leverage from which on a row is heavy. All leverages add up to the rank: there are at most 2·d such rows.
HEAVY = 0.5


def leverage(rows: torch.Tensor, triangle: torch.Tensor, ridge: float) -> torch.Tensor:
    """xᵀ(RᵀR + ridge²·I)⁻¹x of each row x.

    Args:
        rows: (m, d), float64.
        triangle: R, (k, d), with RᵀR = XᵀX.
        ridge: directions of X with singular values far below it are not looked at.

    Returns:
        (m,), between 0 and 1 for rows of X.
    """
    d = rows.shape[1]
    factor = torch.linalg.qr(torch.cat([triangle, ridge * torch.eye(d).to(triangle)]), mode="r").R
    return torch.linalg.solve_triangular(factor.mT, rows.mT, upper=False).square().sum(0)


class HeavyRows:
    """The rows of large leverage of X (n, d), whose rows come in batches: O(d²) memory for any n.

    A row's leverage only falls as others follow, so that one which fell below one half is not wanted again (online row
    sampling, arXiv 1604.05448).

    Args:
        factor: of the same rows, which it is given first.
    """

    def __init__(self, factor: FeatureFactor) -> None:
        self._factor = factor
        self._numbers: list[torch.Tensor] = []
        self._rows: list[torch.Tensor] = []
        self._n_kept = 0

    def update(self, numbers: torch.Tensor, rows: torch.Tensor) -> None:
        """Adds rows (m, d) with their numbers (m,)."""
        self._numbers.append(numbers)
        # A copy: features may be a view that keeps all that the model computed alive.
        self._rows.append(rows.clone())
        self._n_kept += len(rows)
        if self._n_kept >= 4 * self._factor.n_features:
            self.found()

    def found(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Numbers (m,) and rows (m, d) with a leverage of one half or more, the largest first."""
        numbers, rows = torch.cat(self._numbers), torch.cat(self._rows)
        triangle = self._factor.triangle
        size = triangle.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
        scaled = triangle / size
        ridge = torch.finfo(rows.dtype).eps * float(torch.linalg.vector_norm(scaled))
        weights, order = leverage(as_float64(rows) / size, scaled, ridge).sort(descending=True)
        kept = order[weights >= HEAVY]
        numbers, rows = numbers[kept.to(numbers.device)], rows[kept]
        self._numbers, self._rows, self._n_kept = [numbers], [rows], len(rows)
        return numbers, rows
