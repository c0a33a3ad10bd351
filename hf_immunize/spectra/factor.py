"""The triangular factor of features that come in batches: what their singular values are, to the last direction."""

from __future__ import annotations

import torch
from numpy.typing import ArrayLike

from hf_immunize.errors import InputError
from hf_immunize.spectra.eigen import as_float64
from hf_immunize.spectra.spectrum import check_features

__all__ = ["FeatureFactor"]


class FeatureFactor:
    """R of X = QR for rows X (n, d) that come in batches, in float64: O(d²) memory for any n.

    Where a Gram holds squares, which float64 resolves down to 1e-8 of the largest, R has the singular values of X
    themselves, down to max(n, d)·eps.

    Args:
        n_features: the width d of the features.

    Attributes:
        n_samples: rows so far.
        live: which columns were ever other than zero, (d,) of bool.

    Example:
        >>> factor = FeatureFactor(2)
        >>> factor.update(torch.tensor([[3.0, 0.0]]))
        >>> factor.update(torch.tensor([[0.0, 1e-12]], dtype=torch.float64))
        >>> [f"{value:.0e}" for value in factor.singular_values().tolist()]
        ['3e+00', '1e-12']
    """

    def __init__(self, n_features: int) -> None:
        self.n_features, self.n_samples = n_features, 0
        self.live = torch.zeros(n_features, dtype=torch.bool)
        self._waiting: list[torch.Tensor] = []
        self._n_waiting = 0

    def update(self, features: ArrayLike) -> None:
        """Adds the rows of ``features``, shape (n, d).

        Raises:
            ValueError: wrong width, NaN or infinite values.
        """
        rows = check_features(features)
        if rows.shape[1] != self.n_features:
            raise InputError(f"Expected features of width {self.n_features}, got {rows.shape[1]}.")
        self.n_samples += len(rows)
        self.live = self.live.to(rows.device) | rows.ne(0).any(0)
        # A copy: features may be a view that keeps all that the model computed alive.
        self._waiting.append(as_float64(rows).clone())
        self._n_waiting += len(rows)
        if self._n_waiting >= 4 * self.n_features:
            self._fold()

    def singular_values(self) -> torch.Tensor:
        """Of all rows so far, (min(n, d),), the largest first, on the CPU.

        Raises:
            ValueError: there are no rows.
        """
        if not self.n_samples:
            raise InputError("There are no rows yet. Call update(features) first.")
        factor, size = self.triangle, self.triangle.abs().max()
        # Dividing by the largest entry keeps the squares of very small or large features inside float64.
        values = torch.linalg.svdvals(factor / size) * size if size > 0 else factor.new_zeros(min(factor.shape))
        return values.cpu()

    @property
    def triangle(self) -> torch.Tensor:
        """R of all rows so far, (min(n, d), d) or the rows themselves where they are few, on their device."""
        (factor,) = self._fold()
        return factor

    def decomposed(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Singular values (min(n, d),), the largest first, and all right singular vectors (d, d), on the CPU."""
        factor, size = self.triangle, self.triangle.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
        _, values, right = torch.linalg.svd(factor / size, full_matrices=True)
        return (values * size).cpu(), right.mT.cpu()

    def _fold(self) -> list[torch.Tensor]:
        """The factor of the factor and what waits, which is alone from then on."""
        joined = torch.cat(self._waiting)
        if len(joined) > self.n_features:
            joined = torch.linalg.qr(joined, mode="r").R
        self._waiting, self._n_waiting = [joined], 0
        return self._waiting
