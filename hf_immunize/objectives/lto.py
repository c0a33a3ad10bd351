"""Learning to obstruct: a poor start for whoever fine-tunes on the harmful classes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from hf_immunize.errors import InputError
from hf_immunize.objectives.objective import ModelObjective, StepView, checked_count, checked_positive

__all__ = ["LTO"]


class LTO(ModelObjective):
    """Meta-learning of a poor start (Zheng, Yang & Yeh, *Learning to obstruct*, ECCV 2024, arXiv 2409.19210).

    Each batch is a task of few images: one half is what somebody fine-tunes on, the weights that train and a head from
    zero, for ``inner_steps`` steps of gradient descent; the loss of the adapted network on the other half is raised for
    the harmful classes and lowered for the primary ones, with the gradient taken through the adaptation. In the paper
    the classes of both are redrawn for each task; here they are those of the two data sets, and the primary task's own
    loss stands beside them.

    Args:
        lambda_primary: weight λ_P ≥ 0 of the adapted primary loss.
        lambda_harmful: weight λ_H ≥ 0 of the adapted harmful loss, which is raised. It has no upper bound.
        scale_free: without effect; accepted so that all objectives are built alike.
        inner_steps: length of the adaptation, at least 1.
        inner_learning_rate: its step.
        first_order: leave the second derivatives of the adaptation out, which takes about half the time.

    Raises:
        ValueError: ``inner_steps`` below 1, a step that is not positive, and at a step missing labels.
    """

    name = "lto"
    without_effect = frozenset({"scale_free"})
    needs_harmful_labels = True
    exact_over_processes = False

    def __init__(
        self,
        lambda_primary: float = 1.0,
        lambda_harmful: float = 1.0,
        scale_free: bool = True,
        inner_steps: int = 1,
        inner_learning_rate: float = 0.01,
        first_order: bool = False,
    ) -> None:
        super().__init__(lambda_primary, lambda_harmful, scale_free)
        self.inner_steps = checked_count("inner_steps", inner_steps)
        self.inner_learning_rate = checked_positive("inner_learning_rate", inner_learning_rate)
        self.first_order = first_order

    def of_step(self, step: StepView, gather: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, torch.Tensor]:
        """See :meth:`ModelObjective.of_step`; the parts are ``lto_primary`` and ``lto_harmful`` (negative)."""
        parts = {}
        if self.uses_primary:
            parts["lto_primary"] = self.lambda_primary * self.adapted_loss(step, step.primary)
        if self.uses_harmful:
            parts["lto_harmful"] = -self.lambda_harmful * self.adapted_loss(step, step.harmful)
        return parts

    def adapted_loss(self, step: StepView, batch: Mapping[str, Any]) -> torch.Tensor:
        """Cross-entropy of the second half of a batch after adaptation to the first, differentiable in the weights."""
        labels = batch.get("labels")
        if labels is None or labels.is_floating_point():
            raise InputError("The objective 'lto' adapts a head and needs the class numbers of both data sets.")
        half = len(labels) // 2
        if half < 1:
            raise InputError("The objective 'lto' needs two images of each data set in a batch, got one.")
        support = {name: value[:half] for name, value in batch.items()}
        query = {name: value[half:] for name, value in batch.items()}
        weights: dict[str, torch.Tensor] = dict(step.parameters)
        width = step.harmful_features.shape[1]
        head = next(iter(weights.values())).new_zeros(width, int(labels.max()) + 1).requires_grad_()
        for _ in range(self.inner_steps):
            # The fused kernels of attention have no second derivative.
            with contextlib.nullcontext() if self.first_order else sdpa_kernel(SDPBackend.MATH):
                loss = functional.cross_entropy(step.features(weights, support) @ head, support["labels"])
                leaves = [*weights.values(), head]
                slopes = torch.autograd.grad(loss, leaves, create_graph=not self.first_order, allow_unused=True)
            moved = [
                leaf if slope is None else leaf - self.inner_learning_rate * slope
                for leaf, slope in zip(leaves, slopes, strict=True)
            ]
            weights, head = dict(zip(weights, moved, strict=False)), moved[-1]
        return functional.cross_entropy(step.features(weights, query) @ head, query["labels"])
