"""Spectra of feature Hessians: the numerical rank and the condition number on the span.

The Hessian of a linear probe with the l2 loss on features X of shape (n, d) is S = XᵀX (Zheng et al., ICML 2025,
arXiv 2505.23760, section 3). Its eigenvalues are the squared singular values of X. Everything here is float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike

from hf_immunize.errors import InputError, InputTypeError
from hf_immunize.spectra.eigen import as_float64, exp_or_inf, rank_floor

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["FeatureGram", "Spectrum", "check_features", "condition_number", "cut", "spectrum"]

#: Two neighbouring singular values closer than this factor show no gap at the floor of rounding.
GAP = 10.0
#: Rows that a Gram takes at a time: bounds what the float64 copy of a batch costs.
CHUNK = 4096
#: float64 features beyond these magnitudes leave float64 when squared.
SMALLEST, LARGEST = 1e-140, 1e140


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvalues of XᵀX above the floor of rounding, with everything needed to read a condition number honestly.

    Attributes:
        eigenvalues: ascending, float64, shape (rank,); squared singular values of the features.
        n_samples: rows of X.
        n_features: columns of X.
        tolerance: relative floor; singular values of X below ``tolerance * s_1`` count as zero.
        residual: the largest discarded singular value over s_1 (0 when nothing was discarded).
    """

    eigenvalues: torch.Tensor = field(repr=False)
    n_samples: int
    n_features: int
    tolerance: float
    residual: float = 0.0

    @property
    def rank(self) -> int:
        """Number of singular values of X above the floor."""
        return self.eigenvalues.numel()

    @property
    def precision_limited(self) -> bool:
        """True where the spectrum runs into the floor without a gap: κ then is the tolerance, not the model."""
        if self.rank == 0 or self.rank == min(self.n_samples, self.n_features):
            return False
        smallest = math.sqrt(float(self.eigenvalues[0] / self.eigenvalues[-1]))
        return smallest < GAP * max(self.residual, self.tolerance / GAP)

    @property
    def condition_number(self) -> float:
        """κ = σ_max/σ_min over the non-zero singular values of XᵀX (paper, section 3)."""
        return exp_or_inf(self.log_condition_number)

    @property
    def log_condition_number(self) -> float:
        """Natural logarithm of :attr:`condition_number`."""
        return self.log_condition_number_at(self.rank)[0]

    def log_condition_number_at(self, index: int) -> tuple[float, bool]:
        """Log κ_r = log (s_1/s_r)² at a given index r, and whether it is only a lower bound.

        Where s_r lies under the floor, (1/tolerance)² bounds κ_r from below.

        Raises:
            ValueError: the features are all zero, or ``index`` is not positive.
        """
        if self.rank == 0:
            raise InputError(
                f"The condition number of {self.n_samples} x {self.n_features} all-zero features is undefined. "
                "Pass features that are not all zero."
            )
        if index < 1:
            raise InputError(f"The index of a singular value counts from 1, got {index}.")
        if index > self.rank:
            return -2.0 * math.log(self.tolerance), True
        largest, chosen = self.eigenvalues[-1], self.eigenvalues[-index]
        return float(largest.log() - chosen.log()), False


class FeatureGram:
    """XᵀX summed over batches in float64: O(d²) memory for any number of samples.

    Args:
        n_features: the width d of the features.
        precision: dtype in which the features were computed, where that is coarser than the dtype they arrive in.

    A Gram resolves s_r/s_1 only down to √(max(n, d)·eps64) ≈ 1e-6; :func:`spectrum` on the features themselves
    resolves more.

    Example:
        >>> gram = FeatureGram(2)
        >>> gram.update(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
        >>> gram.spectrum().condition_number
        4.0
    """

    def __init__(self, n_features: int, precision: torch.dtype | None = None) -> None:
        if not isinstance(n_features, int) or n_features < 1:
            raise InputError(f"n_features must be a positive integer, got {n_features!r}.")
        self.n_features = n_features
        self.n_samples = 0
        self.matrix = torch.zeros(n_features, n_features, dtype=torch.float64)
        self.eps = torch.finfo(precision).eps if precision is not None else torch.finfo(torch.float64).eps
        self._reduced = False

    def update(self, features: ArrayLike) -> None:
        """Adds the rows of ``features``, shape (n, d).

        Raises:
            ValueError: wrong width, NaN or infinite values, or the Gram was already reduced over processes.
        """
        if self._reduced:
            raise InputError("This Gram was already reduced over processes. Start a new FeatureGram for more rows.")
        features = check_features(features)
        if features.shape[1] != self.n_features:
            raise InputError(
                f"Expected features of width {self.n_features}, got {features.shape[1]}: all batches must come from "
                "the same model."
            )
        self.eps = max(self.eps, torch.finfo(features.dtype).eps)
        self.n_samples += features.shape[0]
        for chunk in features.split(CHUNK):
            rows = as_float64(chunk)
            self.matrix = self.matrix.to(rows.device).addmm_(rows.mT, rows)

    def reduce(self, accelerator: Accelerator) -> FeatureGram:
        """Sums the Grams of all processes, in place, and returns it. Every process must call it."""
        if self._reduced:
            raise InputError("This Gram was already reduced over processes; reducing it again would count rows twice.")
        device = accelerator.device
        on_host = device.type == "mps"
        matrix = self.matrix if on_host else self.matrix.to(device)
        counts = torch.tensor([float(self.n_samples)], dtype=torch.float32 if on_host else torch.float64, device=device)
        eps = torch.tensor([self.eps], dtype=torch.float32 if on_host else torch.float64, device=device)
        self.matrix = accelerator.reduce(matrix.contiguous(), reduction="sum")
        self.n_samples = round(accelerator.reduce(counts, reduction="sum").item())
        self.eps = accelerator.gather(eps).max().item()
        self._reduced = True
        return self

    def spectrum(self) -> Spectrum:
        """Spectrum of all rows so far."""
        if self.n_samples == 0:
            raise InputError("This Gram holds no rows yet. Call update(features) before spectrum().")
        # Squares of singular values are resolved by float64 only down to a floor of their own.
        floor = max(
            max(self.n_samples, self.n_features) * self.eps, math.sqrt(rank_floor(self.n_samples, self.n_features))
        )
        eigenvalues = torch.linalg.eigvalsh(self.matrix).clamp_min(0).cpu()
        return cut(eigenvalues, self.n_samples, self.n_features, floor, resolution=min(self.n_samples, self.n_features))


def spectrum(features: ArrayLike, precision: torch.dtype | None = None) -> Spectrum:
    """Spectrum of XᵀX by a float64 singular value decomposition of X.

    Args:
        features: shape (n, d); a tensor of any float type, or anything NumPy turns into an array.
        precision: dtype in which the features were computed, where that is coarser than the dtype they arrive in.

    Returns:
        the eigenvalues above the floor max(n, d)·eps, squared, with rank, n and d.

    Raises:
        TypeError: not an array of numbers.
        ValueError: wrong shape, no rows, NaN or infinite values, or a precision too coarse for this size.

    Example:
        >>> round(spectrum(torch.tensor([[3.0, 0.0, 0.0], [0.0, 1.0, 0.0]])).condition_number, 6)
        9.0
    """
    features = check_features(features)
    n, d = features.shape
    floor = max(rank_floor(n, d, dtype) for dtype in (features.dtype, precision or features.dtype))
    rows = as_float64(features)
    scale = rows.abs().max()
    # Dividing by the largest entry keeps the squares of very small or large features inside float64.
    values = torch.linalg.svdvals(rows / scale) * scale if scale > 0 else torch.zeros(min(n, d), dtype=torch.float64)
    return cut(values.flip(0).square().cpu(), n, d, floor, resolution=min(n, d))


def condition_number(features: ArrayLike) -> float:
    """κ(XᵀX) on the span of the features X of shape (n, d) (paper, section 3).

    Example:
        >>> condition_number(torch.eye(3))
        1.0
    """
    return spectrum(features).condition_number


def check_features(given: ArrayLike) -> torch.Tensor:
    """Returns what was given as a detached floating tensor of shape (n, d), or says what is wrong with it."""
    if isinstance(given, torch.Tensor):
        features = given
    else:
        try:
            # Through NumPy: a list of Python numbers stays float64. The copy takes what torch cannot share: read-only
            # arrays (Arrow's, say) and reversed ones.
            array = np.asarray(given)
            shared = array.flags.writeable and array.flags.c_contiguous
            features = torch.from_numpy(array if shared else array.copy())
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputTypeError(
                f"Features must be a tensor or an array of numbers with rows of one length, got "
                f"{type(given).__name__}: {error}"
            ) from error
    features = features.detach()
    if features.is_complex():
        raise InputTypeError("Features must be real numbers, got complex ones.")
    if not features.is_floating_point():
        features = features.double()
    if features.ndim != 2:
        raise InputError(
            f"Features must have shape (n, d), got {tuple(features.shape)}. Flatten or pool everything but the samples."
        )
    if features.shape[0] == 0 or features.shape[1] == 0:
        raise InputError(
            f"Features of shape {tuple(features.shape)} hold no numbers. Pass at least one row and column."
        )
    # Both ends carry NaN and infinity, and need no copy of the features as torch.isfinite does.
    low, high = (end.item() for end in torch.aminmax(features))
    if not (math.isfinite(low) and math.isfinite(high)):
        bad = int((~torch.isfinite(features)).any(dim=1).sum())
        raise InputError(f"{bad} of {features.shape[0]} feature rows hold NaN or infinite values.")
    largest = max(-low, high)
    if largest > 0 and not SMALLEST < largest < LARGEST:
        raise InputError(f"Features as large as {largest:.3g} leave float64 when squared. Rescale them.")
    return features


def cut(eigenvalues: torch.Tensor, n: int, d: int, tolerance: float, resolution: int) -> Spectrum:
    """Keeps the squared singular values above the floor; at most ``resolution`` of them can be real."""
    if tolerance >= 1:
        raise InputError(
            f"{n} x {d} features in this precision cannot be resolved: rounding (max(n, d)·eps = {tolerance:.3g}) is "
            "as large as the largest singular value. Compute the features in float32 or float64."
        )
    largest = eigenvalues[-1]
    kept = eigenvalues[eigenvalues > largest * tolerance**2][-resolution:]
    if largest <= 0:
        return Spectrum(kept, n, d, tolerance)
    dropped = eigenvalues[: eigenvalues.numel() - kept.numel()]
    residual = math.sqrt(float(dropped[-1] / largest)) if dropped.numel() else 0.0
    return Spectrum(kept, n, d, tolerance, residual)
