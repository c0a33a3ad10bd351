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
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from hf_immunize.spectra.spectrum import as_float64

__all__ = ["features_r_ill", "features_r_well", "gram_eigen", "r_ill", "r_well"]

#: Ascending positive eigenvalues (k,) -> the scalar and its derivative by each of them (k,).
Terms = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
#: Below this share of the mean eigenvalue a direction counts as lost to the scale-free r_ill.
FLOOR = 1e-3
#: Eigenvalues closer than this relative distance are one eigenspace; its subgradient is the mean over it.
TIE = 1e-12


def r_ill(hessian: torch.Tensor) -> torch.Tensor:
    """R_ill of a symmetric positive semi-definite matrix of shape (d, d), as a scalar (paper, equation of R_ill).

    Differentiable; where σ_k is unique the gradient is (σ_k u_k u_kᵀ − S/k) / (‖S‖²_F/(2k) − σ_k²/2)².

    Raises:
        ValueError: not square, not symmetric, not positive semi-definite, not finite, zero, or with all its non-zero
            singular values equal (R_ill is infinite there).
    """
    return _HessianTerm.apply(_checked_hessian(hessian), _raw_ill)


def r_well(hessian: torch.Tensor) -> torch.Tensor:
    """R_well of a symmetric positive semi-definite matrix of shape (d, d), as a scalar (paper, equation of R_well).

    Differentiable; where σ_1 is unique the gradient is σ_1 u_1 u_1ᵀ − S/k.

    Raises:
        ValueError: not square, not symmetric, not positive semi-definite, not finite, or zero.
    """
    return _HessianTerm.apply(_checked_hessian(hessian), _raw_well)


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
    return _FeatureTerm.apply(features, _scale_free_ill if scale_free else _raw_ill)


def features_r_well(features: torch.Tensor, scale_free: bool = True) -> torch.Tensor:
    """R_well of XᵀX for features X of shape (n, d), as a scalar of X's dtype. See :func:`features_r_ill`.

    Example:
        >>> x = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> features_r_well(x, scale_free=False) == 16 / 2 - 17 / 4
        tensor(True)
    """
    return _FeatureTerm.apply(features, _scale_free_well if scale_free else _raw_well)


def gram_eigen(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """Eigenpairs above rounding of the smaller of XXᵀ (n×n) and XᵀX (d×d), in float64.

    Returns:
        eigenvalues (k,), ascending and positive; eigenvectors (min(n, d), k); True where they are XXᵀ's.

    Raises:
        TypeError: not a floating tensor.
        ValueError: wrong shape, NaN or infinite values, or all zero.
    """
    if not isinstance(features, torch.Tensor) or not features.is_floating_point():
        raise TypeError(f"Features must be a floating tensor of shape (n, d), got {_describe(features)}.")
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"Features must have shape (n, d) with n, d ≥ 1, got {tuple(features.shape)}.")
    n, d = features.shape
    rows = as_float64(features.detach())
    left = n <= d
    gram = rows @ rows.mT if left else rows.mT @ rows
    if not torch.isfinite(gram).all():
        raise ValueError(f"The {n} x {d} features hold NaN or infinite values, or overflow when squared.")
    # Half precision counts as the numbers it holds: its own worst-case floor would leave no direction at all.
    eps = min(torch.finfo(features.dtype).eps, torch.finfo(torch.float32).eps)
    floor = max((max(n, d) * eps) ** 2, max(n, d) * torch.finfo(torch.float64).eps)
    eigenvalues, vectors = torch.linalg.eigh(gram)
    # The regularizers square the eigenvalues.
    if rows.any() and not 1e-150 < eigenvalues[-1] < 1e150:
        raise ValueError(f"The {n} x {d} features leave float64 when raised to the fourth power. Rescale them.")
    kept = eigenvalues > floor * eigenvalues[-1].clamp_min(0)
    if not kept.any():
        raise ValueError(f"The {n} x {d} features are all zero: they have no spectrum. The model has collapsed.")
    return eigenvalues[kept], vectors[:, kept], left


class _FeatureTerm(torch.autograd.Function):
    """∂/∂X of a function of XᵀX's eigenvalues is 2X·∇_S, which is U diag(2g) Uᵀ X on the n×n side."""

    @staticmethod
    def forward(ctx: Any, features: torch.Tensor, terms: Terms) -> torch.Tensor:
        eigenvalues, vectors, left = gram_eigen(features)
        value, slope = terms(eigenvalues)
        if not (torch.isfinite(value) and torch.isfinite(slope).all()):
            raise ValueError("The regularizer or its gradient overflows float64. Rescale the features.")
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(features.detach(), slope, vectors)
            ctx.left = left
        return value.to(features.device, torch.promote_types(features.dtype, torch.float32))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, None]:
        features, slope, vectors = ctx.saved_tensors
        rows = as_float64(features)
        if ctx.left:
            gradient = (vectors * (2 * slope)) @ (vectors.mT @ rows)
        else:
            gradient = (rows @ vectors * (2 * slope)) @ vectors.mT
        return (gradient * as_float64(upstream)).to(features), None


class _HessianTerm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hessian: torch.Tensor, terms: Terms) -> torch.Tensor:
        matrix = as_float64(hessian.detach())
        eigenvalues, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
        floor = matrix.shape[0] * torch.finfo(hessian.dtype).eps * eigenvalues[-1].clamp_min(0)
        kept = eigenvalues > floor
        if not kept.any():
            raise ValueError(f"The {matrix.shape[0]} x {matrix.shape[0]} Hessian is zero: it has no spectrum.")
        if eigenvalues[0] < -10 * floor:
            raise ValueError(
                f"The Hessian must be positive semi-definite, its smallest eigenvalue is {eigenvalues[0]:.3g}."
            )
        value, slope = terms(eigenvalues[kept])
        ctx.save_for_backward((vectors[:, kept] * slope) @ vectors[:, kept].mT)
        return value.to(hessian)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * as_float64(upstream)).to(upstream), None


def _raw_ill(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    k = values.numel()
    # As a mean of non-negative differences, so that equal values give exactly zero and never a negative gap.
    gap = (values.square() - values[0].square()).sum() / (2 * k)
    if gap <= 0:
        raise ValueError(
            f"R_ill is infinite: all {k} non-zero singular values are equal. Use more rows, or scale_free=True."
        )
    return 1 / gap, (_unit(values, 0) * values[0] - values / k) / gap.square()


def _raw_well(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    k = values.numel()
    return (values[-1].square() - values.square()).sum() / (2 * k), _unit(values, -1) * values[-1] - values / k


def _scale_free_ill(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    k, total = values.numel(), values.sum()
    floor = FLOOR * total / k
    raised = values + floor
    # The floor is a share of the mean and moves with it.
    slope = (1 / raised - (values / raised).sum() / total) / (k * math.log(10))
    return (raised / floor).log10().mean(), slope


def _scale_free_well(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    k, total = values.numel(), values.sum()
    # Rounding must not make equal values a negative gap.
    return -(values * (k / total)).log10().mean().clamp_max(0), (1 / total - 1 / (k * values)) / math.log(10)


def _unit(values: torch.Tensor, index: int) -> torch.Tensor:
    """Weight one on the chosen eigenvalue, shared equally by all that are tied with it."""
    tied = (values - values[index]).abs() <= TIE * values[-1]
    return tied.to(values) / tied.sum()


def _checked_hessian(hessian: torch.Tensor) -> torch.Tensor:
    if not isinstance(hessian, torch.Tensor) or not hessian.is_floating_point():
        raise TypeError(f"The Hessian must be a floating tensor of shape (d, d), got {_describe(hessian)}.")
    if hessian.ndim != 2 or hessian.shape[0] != hessian.shape[1] or hessian.shape[0] == 0:
        raise ValueError(f"The Hessian must have shape (d, d), got {tuple(hessian.shape)}.")
    if not torch.isfinite(hessian).all():
        raise ValueError("The Hessian holds NaN or infinite values.")
    with torch.no_grad():
        if (hessian - hessian.mT).abs().max() > 1e-3 * hessian.abs().max():
            raise ValueError("The Hessian must be symmetric. Pass features.T @ features, not the features.")
    return hessian


def _describe(value: Any) -> str:
    return f"{value.dtype} tensor" if isinstance(value, torch.Tensor) else type(value).__name__
