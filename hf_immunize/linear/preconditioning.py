"""K⁻¹ as an identity in the forward pass (Algorithm 1 of arXiv 2505.23760)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from numpy.typing import ArrayLike
from torch import nn

from hf_immunize.errors import InputError
from hf_immunize.linear.inputs import as_matrix
from hf_immunize.spectra.eigen import rank_floor

__all__ = ["PreconditionedIdentity"]


class PreconditionedIdentity(nn.Module):
    """Returns the weight unchanged; in the backward pass multiplies its gradient by K⁻¹ on the input side.

    K = XᵀX of the inputs X of the layer that owns the weight, in units of its largest singular value. Where K is
    singular the pseudo-inverse on its span serves. K is factorised once, here.

    Args:
        inputs: X, shape (n, D_in).
        layout: "in_out" for a weight θ of shape (D_in, D_out), whose gradient becomes K⁻¹·grad; "out_in" for the
            weight of an ``nn.Linear``, shape (D_out, D_in), whose gradient becomes grad·K⁻¹.

    Raises:
        TypeError, ValueError: inputs that are no finite table of numbers, an unknown layout, and at the call a weight
            whose input side is not D_in wide.

    Example:
        As a parametrization of a layer in a larger model:

        >>> layer = torch.nn.Linear(3, 2)
        >>> _ = torch.nn.utils.parametrize.register_parametrization(
        ...     layer, "weight", PreconditionedIdentity(torch.eye(3), layout="out_in"))
    """

    vectors: torch.Tensor
    inverse: torch.Tensor

    def __init__(self, inputs: ArrayLike, layout: Literal["in_out", "out_in"] = "in_out") -> None:
        super().__init__()
        if layout not in ("in_out", "out_in"):
            raise InputError(f"layout must be 'in_out' or 'out_in', got {layout!r}.")
        x, _ = as_matrix(inputs, "inputs")
        _, values, right = torch.linalg.svd(x, full_matrices=False)
        values = values / values[0]
        kept = values > rank_floor(*x.shape)
        self.layout = layout
        self.register_buffer("vectors", right[kept].mT.contiguous())
        self.register_buffer("inverse", values[kept].square().reciprocal())

    @property
    def rank(self) -> int:
        """Rank of K."""
        return self.inverse.numel()

    def apply_inverse(self, gradient: torch.Tensor) -> torch.Tensor:
        """K⁻¹·gradient for shape (D_in, m), in the gradient's dtype."""
        vectors, inverse = self.vectors.to(gradient.device), self.inverse.to(gradient.device)
        coordinates = vectors.mT @ gradient.to(vectors.dtype)
        return (vectors @ (inverse[:, None] * coordinates)).to(gradient.dtype)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight, with K⁻¹ waiting in its backward pass."""
        side = 0 if self.layout == "in_out" else 1
        if weight.ndim != 2 or weight.shape[side] != self.vectors.shape[0]:
            raise InputError(
                f"K comes from inputs of width {self.vectors.shape[0]}, so a weight of layout {self.layout!r} must "
                f"have that size on its input side, got shape {tuple(weight.shape)}."
            )
        return _Identity.apply(weight, self)


class _Identity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, owner: PreconditionedIdentity) -> torch.Tensor:
        ctx.owner = owner
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        owner = ctx.owner
        if owner.layout == "in_out":
            return owner.apply_inverse(gradient), None
        return owner.apply_inverse(gradient.mT).mT, None
