"""What rounding does to the singular value that decides, told by a few rows in both precisions.

With features X (n, d) in float32, E their rounding, and s_1 ≥ s_2 ≥ … and V of X, the singular value s_k of X − E
differs from X's by no more than η·s_k, where η = ‖E·W‖ and W = V·diag(1/max(s_j, s_k)): by the max-min principle over
the first k columns of V from below, and over the others from above (a relative perturbation bound, as in Ipsen, Acta
Numerica 7, 1998). A row adds ‖Eᵢ·W‖² to ‖E·W‖_F², about as much as ‖xᵢ·W‖², which is its leverage where k is the rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from hf_immunize.spectra.eigen import as_float64
from hf_immunize.spectra.factor import FeatureFactor
from hf_immunize.spectra.leverage import HeavyRows

__all__ = ["N_DRAWN", "N_HEAVY", "RoundingCheck"]

#: Rows of the largest leverage that are looked at, and rows that are drawn.
N_HEAVY, N_DRAWN = 8, 8
#: What the drawn rows say of all others is taken twice, in squares.
SAFETY = 2.0


@dataclass(frozen=True, eq=False)
class RoundingCheck:
    """Which rows to compute again in float64, and what they then say.

    Attributes:
        numbers: of the rows, (m,), ascending.
        rows: as they were computed, (m, d), float64 on the CPU.
        is_heavy: which of them count for themselves, (m,); the others stand for all the rest.
        weights: W, (d, d).
        rest: ‖xᵢ·W‖², summed over all rows that are not heavy.
    """

    numbers: torch.Tensor
    rows: torch.Tensor
    is_heavy: torch.Tensor
    weights: torch.Tensor
    rest: float

    @classmethod
    def of(
        cls, index: int, factor: FeatureFactor, heavy: HeavyRows, drawn: tuple[torch.Tensor, torch.Tensor]
    ) -> RoundingCheck:
        """For the singular value at ``index``, counted from 1.

        Args:
            index: no larger than the number of values that are not zero.
            factor: of all rows.
            heavy: of the same rows.
            drawn: numbers and rows that were drawn at random.
        """
        values, right = factor.decomposed()
        chosen = values[index - 1]
        weights = right / torch.cat([values, values.new_zeros(len(right) - len(values))]).clamp_min(chosen)
        numbers, rows = (one[:N_HEAVY].cpu() for one in heavy.found())
        others = ~torch.isin(drawn[0], numbers)
        numbers = torch.cat([numbers, drawn[0][others][:N_DRAWN]])
        rows = as_float64(torch.cat([rows, drawn[1][others][:N_DRAWN]]))
        is_heavy = torch.arange(len(numbers)) < len(numbers) - min(N_DRAWN, int(others.sum()))
        everything = float((values / values.clamp_min(chosen)).square().sum())
        rest = max(0.0, everything - float((rows[is_heavy] @ weights).square().sum()))
        order = numbers.argsort()
        return cls(numbers[order], rows[order], is_heavy[order], weights, rest)

    def relative_error(self, exact: torch.Tensor) -> float:
        """η, from the same rows (m, d) in float64; infinity where no drawn row stands for the others."""
        if self.is_heavy.all():
            return math.inf
        moved = ((self.rows - exact) @ self.weights).square().sum(1)
        size = (self.rows @ self.weights).square().sum(1)
        share = float(moved[~self.is_heavy].sum() / size[~self.is_heavy].sum())
        return math.sqrt(float(moved[self.is_heavy].sum()) + SAFETY * self.rest * share)
