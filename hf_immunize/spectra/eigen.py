"""Eigenpairs of feature Grams, functions of eigenvalues with closed-form gradients, and the one floor of rounding."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from hf_immunize.errors import InputError, InputTypeError

__all__ = [
    "GramEigen",
    "Terms",
    "as_float64",
    "exp_or_inf",
    "log_left_over",
    "of_features",
    "of_hessian",
    "rank_floor",
    "shared_by_ties",
]

#: Ascending positive eigenvalues (k,) -> the scalar and its derivative by each of them (k,).
Terms = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
#: Eigenvalues closer than this relative distance are one eigenspace; its subgradient is the mean over it.
TIE = 1e-12


def rank_floor(n: int, d: int, dtype: torch.dtype = torch.float64) -> float:
    """Singular values of an (n, d) matrix below this share of the largest are rounding: max(n, d)·eps."""
    return max(n, d) * torch.finfo(dtype).eps


def as_float64(features: torch.Tensor) -> torch.Tensor:
    """float64 on the same device, or on the CPU where the device has no float64 (MPS)."""
    return (features.cpu() if features.device.type == "mps" else features).double()


def exp_or_inf(value: float) -> float:
    """The exponential; infinity where it leaves float64."""
    return math.exp(value) if value < 709.0 else math.inf


def log_left_over(values: torch.Tensor) -> torch.Tensor:
    """log(1 − s_i²/s_1²) for singular values (r,), the largest first.

    Gradient descent on least squares with the step 1/L shrinks the error along a singular vector by 1 − s_i²/s_1² a
    step (arXiv 2505.23760, section 3). The logarithm keeps what 1 − x rounds away; the first is −∞.
    """
    return torch.log1p(-(values / values[0]).square())


@dataclass(frozen=True)
class GramEigen:
    """Eigenpairs above rounding of the smaller of XXᵀ (n×n) and XᵀX (d×d), float64, and what is read off them.

    Attributes:
        values: eigenvalues (k,), ascending and positive, on the CPU.
        vectors: eigenvectors (min(n, d), k), where X is.
        left: True where they are XXᵀ's.
        rows: X, (n, d), float64.
    """

    values: torch.Tensor
    vectors: torch.Tensor
    left: bool
    rows: torch.Tensor

    @classmethod
    def of(cls, features: torch.Tensor) -> GramEigen:
        """Of features X (n, d), any float type.

        Raises:
            TypeError: not a floating tensor.
            ValueError: wrong shape, NaN or infinite values, or all zero.
        """
        if not isinstance(features, torch.Tensor) or not features.is_floating_point():
            raise InputTypeError(f"Features must be a floating tensor of shape (n, d), got {_describe(features)}.")
        if features.ndim != 2 or 0 in features.shape:
            raise InputError(f"Features must have shape (n, d) with n, d ≥ 1, got {tuple(features.shape)}.")
        n, d = features.shape
        rows = as_float64(features.detach())
        left = n <= d
        gram = rows @ rows.mT if left else rows.mT @ rows
        if not torch.isfinite(gram).all():
            raise InputError(f"The {n} x {d} features hold NaN or infinite values, or overflow when squared.")
        # Half precision counts as the numbers it holds: its own worst-case floor would leave no direction at all.
        fine = min((features.dtype, torch.float32), key=lambda dtype: torch.finfo(dtype).eps)
        # A Gram's eigenvalues are squares, and resolved by float64 only down to a floor of their own.
        floor = max(rank_floor(n, d, fine) ** 2, rank_floor(n, d))
        eigenvalues, vectors = torch.linalg.eigh(gram)
        # On a GPU each of the many operations on these few numbers would be a launch, and each comparison a wait.
        eigenvalues = eigenvalues.cpu()
        # The regularizers square the eigenvalues.
        if not 1e-150 < eigenvalues[-1] < 1e150 and rows.any():
            raise InputError(f"The {n} x {d} features leave float64 when raised to the fourth power. Rescale them.")
        # They ascend.
        rank = int((eigenvalues > floor * eigenvalues[-1].clamp_min(0)).sum())
        if not rank:
            raise InputError(f"The {n} x {d} features are all zero: they have no spectrum. The model has collapsed.")
        return cls(eigenvalues[-rank:], vectors[:, -rank:], left, rows)

    def gradient(self, slope: torch.Tensor) -> torch.Tensor:
        """∂/∂X, (n, d), of a function of the eigenvalues whose derivative by them is ``slope``.

        It is 2X·∇_S, which is U diag(2g) Uᵀ X on the n×n side.
        """
        doubled = (2 * slope).to(self.vectors.device)
        if self.left:
            return (self.vectors * doubled) @ (self.vectors.mT @ self.rows)
        return (self.rows @ self.vectors * doubled) @ self.vectors.mT

    def least_squares(self, targets: torch.Tensor) -> torch.Tensor:
        """Minimum-norm solution ω of Xω = targets, for targets (n,) or (n, m)."""
        y = targets.reshape(targets.shape[0], -1)
        scaled = self.vectors / self.values.to(self.vectors.device)
        if self.left:
            solution = self.rows.mT @ scaled @ (self.vectors.mT @ y)
        else:
            solution = scaled @ (self.vectors.mT @ (self.rows.mT @ y))
        return solution.reshape(-1) if targets.ndim == 1 else solution


def of_features(features: torch.Tensor, terms: Terms) -> torch.Tensor:
    """A function of the eigenvalues of XᵀX as a scalar that is differentiable in X, (n, d).

    One symmetric eigenproblem of size min(n, d) in float64; the gradient is closed-form, without a derivative of an
    eigenvector, so that it is finite at ties and on rank-deficient features.

    Raises:
        TypeError, ValueError: as :meth:`GramEigen.of`; a value or gradient that overflows float64.
    """
    return _OfFeatures.apply(features, terms)


def of_hessian(hessian: torch.Tensor, terms: Terms) -> torch.Tensor:
    """A function of the non-zero eigenvalues of a symmetric S ≥ 0, (d, d), as a scalar that is differentiable in S.

    Raises:
        TypeError: not a floating tensor.
        ValueError: not square, not symmetric, not positive semi-definite, not finite, or zero.
    """
    return _OfHessian.apply(_checked_hessian(hessian), terms)


def shared_by_ties(values: torch.Tensor, index: int) -> torch.Tensor:
    """Weight one on the chosen eigenvalue of (k,), shared equally by all that are tied with it."""
    tied = (values - values[index]).abs() <= TIE * values[-1]
    return tied.to(values) / tied.sum()


class _OfFeatures(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: torch.Tensor, terms: Terms) -> torch.Tensor:
        eigen = GramEigen.of(features)
        value, slope = terms(eigen.values)
        if not (torch.isfinite(value) and torch.isfinite(slope).all()):
            raise InputError("The regularizer or its gradient overflows float64. Rescale the features.")
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(features.detach(), slope, eigen.values, eigen.vectors)
            ctx.left = eigen.left
        return value.to(features.device, torch.promote_types(features.dtype, torch.float32))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, None]:
        features, slope, values, vectors = ctx.saved_tensors
        gradient = GramEigen(values, vectors, ctx.left, as_float64(features)).gradient(slope)
        return (gradient * as_float64(upstream)).to(features), None


class _OfHessian(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hessian: torch.Tensor, terms: Terms) -> torch.Tensor:
        matrix = as_float64(hessian.detach())
        d = matrix.shape[0]
        eigenvalues, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
        floor = rank_floor(d, d, hessian.dtype) * eigenvalues[-1].clamp_min(0)
        kept = eigenvalues > floor
        if not kept.any():
            raise InputError(f"The {d} x {d} Hessian is zero: it has no spectrum.")
        if eigenvalues[0] < -10 * floor:
            raise InputError(
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


def _checked_hessian(hessian: torch.Tensor) -> torch.Tensor:
    if not isinstance(hessian, torch.Tensor) or not hessian.is_floating_point():
        raise InputTypeError(f"The Hessian must be a floating tensor of shape (d, d), got {_describe(hessian)}.")
    if hessian.ndim != 2 or hessian.shape[0] != hessian.shape[1] or hessian.shape[0] == 0:
        raise InputError(f"The Hessian must have shape (d, d), got {tuple(hessian.shape)}.")
    if not torch.isfinite(hessian).all():
        raise InputError("The Hessian holds NaN or infinite values.")
    with torch.no_grad():
        if (hessian - hessian.mT).abs().max() > 1e-3 * hessian.abs().max():
            raise InputError("The Hessian must be symmetric. Pass features.T @ features, not the features.")
    return hessian


def _describe(value: Any) -> str:
    return f"{value.dtype} tensor" if isinstance(value, torch.Tensor) else type(value).__name__
