"""Representation noising: what the layers make of harmful images is drawn towards noise."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from hf_immunize.errors import InputError
from hf_immunize.objectives.objective import ModelObjective, StepView, checked_positive, checked_weight
from hf_immunize.objectives.ridge import ridge_head

__all__ = ["RepNoise", "gaussian_mmd"]

#: Bandwidths of the kernel around the mean distance, each twice the one before.
KERNELS = 5


class RepNoise(ModelObjective):
    """λ_H (noise − β log harmful loss): RepNoise (Rosati et al., NeurIPS 2024, arXiv 2405.14577), for vision backbones.

    The noise term is the maximum mean discrepancy between what every block that trains gives out on harmful images
    and standard normal noise, the mean over blocks. The second term raises the harmful loss, in logarithms, so that it
    cannot run away. The paper's language models predict harmful text with the head that they have; a classifier of
    other classes has none for harmful images, so the loss here is the squared error of the ridge fit to the features of
    the batch. The paper's first term, the loss on harmless data, is the primary task's own.

    Args:
        lambda_primary: accepted so that all objectives are built alike, and set to zero.
        lambda_harmful: weight λ_H ≥ 0 of both terms.
        scale_free: without effect.
        ascent: β, the weight of the harmful loss within.
        penalty: of the ridge fit, in units of the mean eigenvalue of its Gram.

    Raises:
        ValueError: weights that are negative, and at a step missing labels.
    """

    name = "rep_noise"
    without_effect = frozenset({"lambda_primary", "scale_free"})
    needs_harmful_labels = True
    reads_hidden = True

    def __init__(
        self,
        lambda_primary: float = 0.0,
        lambda_harmful: float = 1.0,
        scale_free: bool = True,
        ascent: float = 1e-3,
        penalty: float = 0.1,
    ) -> None:
        checked_weight("lambda_primary", lambda_primary)
        super().__init__(0.0, lambda_harmful, scale_free)
        self.ascent = checked_weight("ascent", ascent)
        self.penalty = checked_positive("penalty", penalty)

    def of_step(self, step: StepView, gather: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, torch.Tensor]:
        """See :meth:`ModelObjective.of_step`; the parts are ``noise`` and ``ascent``."""
        if not self.uses_harmful:
            return {}
        labels = step.harmful.get("labels")
        if labels is None:
            raise InputError("The objective 'rep_noise' raises the harmful loss and needs the labels of harmful data.")
        generator = torch.Generator().manual_seed(step.seed)
        found = []
        for hidden in step.hidden.values():
            rows = gather(hidden.flatten(1))
            found.append(gaussian_mmd(rows, torch.randn(rows.shape, generator=generator).to(rows)))
        parts = {"noise": self.lambda_harmful * torch.stack(found).mean()}
        if self.ascent:
            features, labels = gather(step.harmful_features), gather(labels)
            parts["ascent"] = features.new_zeros(())
            # Of one class alone nothing is left of the error, and nothing to raise.
            if len(labels.unique()) > 1:
                left = _ridge_error(features, labels, self.penalty)
                parts["ascent"] = -self.lambda_harmful * self.ascent * left.log()
        return parts


def gaussian_mmd(rows: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Squared maximum mean discrepancy of rows from a standard normal distribution (Gretton et al., JMLR 2012).

    The kernel is the sum of five Gaussians whose bandwidths stand around the mean squared distance of all rows.

    Args:
        rows: shape (n, d).
        noise: shape (n, d) of standard normal numbers.

    Returns:
        a scalar ≥ 0, differentiable in the rows; the biased estimate, zero where rows and noise are the same.
    """
    both = torch.cat([rows, noise])
    squares = both.square().sum(dim=1)
    distances = (squares[:, None] + squares[None] - 2 * both @ both.mT).clamp_min(0)
    n = len(both)
    bandwidth = distances.detach().sum() / (n * (n - 1)) / 2 ** (KERNELS // 2)
    kernel = sum(torch.exp(-distances / (bandwidth * 2**power)) for power in range(KERNELS))
    own, other = len(rows), n - len(rows)
    signs = torch.cat([rows.new_full((own,), 1 / own), rows.new_full((other,), -1 / other)])
    return signs @ torch.as_tensor(kernel) @ signs


def _ridge_error(features: torch.Tensor, labels: torch.Tensor, penalty: float) -> torch.Tensor:
    """Mean squared error of the ridge fit to these rows, the head held constant in the backward pass."""
    rows = features.double()
    targets = functional.one_hot(labels.long()).double()
    x, y = rows - rows.detach().mean(dim=0), targets - targets.mean(dim=0)
    return (x @ ridge_head(x.detach(), y, penalty) - y).square().mean()
