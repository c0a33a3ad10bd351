"""R_ill and R_well, raw and scale-free, with closed-form gradients (arXiv 2505.23760, section 4).

With S = XᵀX and σ_1 ≥ … ≥ σ_k its non-zero singular values (k is the rank):

* R_ill(S) = 1 / (‖S‖²_F/(2k) − σ_k²/2): falling R_ill raises κ(S).
* R_well(S) = σ_1²/2 − ‖S‖²_F/(2k): falling R_well lowers κ(S).

Both depend on how large the features are (R_well ~ ‖S‖², R_ill ~ ‖S‖⁻²), so λ has to be searched anew for each
backbone, and each moves one singular value against all others. The scale-free forms ask the same of the whole spectrum,
in decades, relative to its mean m = Σσ_i/k:

* r_well = −(1/k) Σ log10(σ_i/m), the arithmetic over the geometric mean: 0 exactly when all σ are equal. It bounds κ
  from above, κ(S) ≤ 4·10^(k·r_well), and grows without bound where a direction is about to be lost.
* r_ill = (1/k) Σ log10(1 + σ_i/(ε·m)) with ε = 1e-3: it bounds κ from below, κ(S) ≥ 1/(ε(10^r_ill − 1)), and stops
  pulling at directions that lie ε below the mean already.

No rescaling of the features changes them, their gradients are exact, and λ is a pure number.
"""

from __future__ import annotations

import math

import torch

from hf_immunize.errors import InputError
from hf_immunize.spectra.eigen import of_features, of_hessian, shared_by_ties

__all__ = [
    "FLOOR",
    "features_r_ill",
    "features_r_well",
    "r_ill",
    "r_well",
    "raw_ill",
    "raw_well",
    "scale_free_ill",
    "scale_free_well",
]

#: Below this share of the mean eigenvalue a direction counts as lost to the scale-free r_ill.
FLOOR = 1e-3


def r_ill(hessian: torch.Tensor) -> torch.Tensor:
    """R_ill of a symmetric positive semi-definite matrix of shape (d, d), as a scalar (paper, equation of R_ill).

    Differentiable; where σ_k is unique the gradient is (σ_k u_k u_kᵀ − S/k) / (‖S‖²_F/(2k) − σ_k²/2)².

    Raises:
        ValueError: not square, not symmetric, not positive semi-definite, not finite, zero, or with all its non-zero
            singular values equal (R_ill is infinite there).
    """
    return of_hessian(hessian, raw_ill)


def r_well(hessian: torch.Tensor) -> torch.Tensor:
    """R_well of a symmetric positive semi-definite matrix of shape (d, d), as a scalar (paper, equation of R_well).

    Differentiable; where σ_1 is unique the gradient is σ_1 u_1 u_1ᵀ − S/k.

    Raises:
        ValueError: not square, not symmetric, not positive semi-definite, not finite, or zero.
    """
    return of_hessian(hessian, raw_well)


def features_r_ill(features: torch.Tensor, scale_free: bool = True) -> torch.Tensor:
    """R_ill of XᵀX for features X of shape (n, d), as a scalar of X's dtype.

    One symmetric eigenproblem of size min(n, d) in float64; the gradient is closed-form and finite at ties and on
    rank-deficient features.

    Args:
        features: shape (n, d), any float type.
        scale_free: a number in decades that no rescaling of the features changes (see the module's docstring); False
            gives the paper's raw form.

    Raises:
        ValueError: wrong shape, NaN or infinite values, all-zero features; for the raw form also features whose
            non-zero singular values are all equal (one row, say).

    Example:
        >>> x = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> features_r_ill(x, scale_free=False) == 1 / (17 / 4 - 1 / 2)
        tensor(True)
    """
    return of_features(features, scale_free_ill if scale_free else raw_ill)


def features_r_well(features: torch.Tensor, scale_free: bool = True) -> torch.Tensor:
    """R_well of XᵀX for features X of shape (n, d), as a scalar of X's dtype. See :func:`features_r_ill`.

    Example:
        >>> x = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> features_r_well(x, scale_free=False) == 16 / 2 - 17 / 4
        tensor(True)
    """
    return of_features(features, scale_free_well if scale_free else raw_well)


def raw_ill(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """R_ill of eigenvalues (k,), ascending and positive, and its derivative by each."""
    k = values.numel()
    # As a mean of non-negative differences, so that equal values give exactly zero and never a negative gap.
    gap = (values.square() - values[0].square()).sum() / (2 * k)
    if gap <= 0:
        raise InputError(
            f"R_ill is infinite: all {k} non-zero singular values are equal. Use more rows, or scale_free=True."
        )
    return 1 / gap, (shared_by_ties(values, 0) * values[0] - values / k) / gap.square()


def raw_well(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """R_well of eigenvalues (k,), ascending and positive, and its derivative by each."""
    k = values.numel()
    return (values[-1].square() - values.square()).sum() / (2 * k), shared_by_ties(values, -1) * values[-1] - values / k


def scale_free_ill(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The scale-free r_ill of eigenvalues (k,), ascending and positive, and its derivative by each."""
    k, total = values.numel(), values.sum()
    floor = FLOOR * total / k
    raised = values + floor
    # The floor is a share of the mean and moves with it.
    slope = (1 / raised - (values / raised).sum() / total) / (k * math.log(10))
    return (raised / floor).log10().mean(), slope


def scale_free_well(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The scale-free r_well of eigenvalues (k,), ascending and positive, and its derivative by each."""
    k, total = values.numel(), values.sum()
    # Rounding must not make equal values a negative gap.
    return -(values * (k / total)).log10().mean().clamp_max(0), (1 / total - 1 / (k * values)) / math.log(10)
