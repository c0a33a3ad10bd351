"""IMMA: the harmful loss after an inner adaptation."""

from __future__ import annotations

import torch
from torch.nn import functional

from hf_immunize.errors import InputError
from hf_immunize.objectives.objective import Objective, checked_count, checked_positive, checked_weight

__all__ = ["IMMA"]


class IMMA(Objective):
    """−λ_H · the harmful loss after an inner adaptation: bi-level, after IMMA (Zheng & Yeh, ECCV 2024).

    The inner problem is the attacker's: a linear head on the harmful features, from zero, ``inner_steps`` steps of
    gradient descent. The outer problem raises the loss that is left, with the gradient taken through the adaptation.
    Float labels are fitted with half the mean squared error, integer labels with cross-entropy.

    Args:
        lambda_primary: accepted so that all objectives are built alike; the primary task loss is IMMA's own primary
            term, so this is set to zero.
        lambda_harmful: weight λ_H ≥ 0.
        scale_free: without effect; the default inner step makes the adaptation free of the features' scale.
        inner_steps: length of the adaptation, at least 1.
        inner_learning_rate: its step; None takes 1/L, L the largest curvature of the inner loss, held constant in the
            backward pass.
        n_classes: width of the harmful head for integer labels; None takes the largest label in the batch plus one.

    Raises:
        ValueError: ``inner_steps`` below 1, a step that is not positive, and at the call missing or ill-shaped labels.
    """

    name = "imma"
    needs_harmful_labels = True
    without_effect = frozenset({"lambda_primary", "scale_free"})

    def __init__(
        self,
        lambda_primary: float = 0.0,
        lambda_harmful: float = 1.0,
        scale_free: bool = True,
        inner_steps: int = 5,
        inner_learning_rate: float | None = None,
        n_classes: int | None = None,
    ) -> None:
        checked_weight("lambda_primary", lambda_primary)
        super().__init__(0.0, lambda_harmful, scale_free)
        self.inner_steps = checked_count("inner_steps", inner_steps)
        if inner_learning_rate is not None:
            checked_positive("inner_learning_rate", inner_learning_rate)
        self.inner_learning_rate = inner_learning_rate
        self.n_classes = n_classes

    def __call__(
        self,
        primary_features: torch.Tensor,
        harmful_features: torch.Tensor,
        harmful_labels: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """See :meth:`Objective.__call__`; the only part is ``imma`` (negative)."""
        if not self.uses_harmful:
            return {}
        return {"imma": -self.lambda_harmful * self.adapted_loss(harmful_features, harmful_labels)}

    def adapted_loss(self, features: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """The harmful loss after the inner steps, differentiable in the features, shape (n, d)."""
        if labels is None:
            raise InputError("The objective 'imma' adapts a harmful head and needs the labels of the harmful data.")
        if labels.shape[:1] != features.shape[:1] or labels.ndim > 2:
            raise InputError(
                f"{features.shape[0]} harmful feature rows need as many labels, got shape {tuple(labels.shape)}."
            )
        n = features.shape[0]
        rows = features if features.dtype == torch.float64 else features.float()
        regression = labels.is_floating_point()
        if regression:
            targets = labels.to(rows).reshape(n, -1)
        else:
            classes = self.n_classes or int(labels.max()) + 1
            if labels.ndim != 1 or int(labels.min()) < 0 or int(labels.max()) >= classes:
                raise InputError(f"Integer labels must have shape (n,) and lie in 0..{classes - 1}; set n_classes.")
            targets = functional.one_hot(labels.long(), classes).to(rows)
        step = self.inner_learning_rate
        if step is None:
            # The curvature of softmax cross-entropy is at most half that of the squared error.
            fixed = rows.detach()
            gram = fixed @ fixed.mT if n <= fixed.shape[1] else fixed.mT @ fixed
            curvature = torch.linalg.eigvalsh(gram)[-1] / n * (1.0 if regression else 0.5)
            step = 1.0 / curvature.clamp_min(torch.finfo(rows.dtype).tiny)
        head = rows.new_zeros(rows.shape[1], targets.shape[1])
        for _ in range(self.inner_steps):
            outputs = rows @ head
            predictions = outputs if regression else outputs.softmax(dim=1)
            # Written out rather than through autograd: the graph of the whole adaptation stays one backward pass.
            head = head - step * (rows.mT @ (predictions - targets)) / n
        outputs = rows @ head
        if regression:
            return (outputs - targets).square().sum() / (2 * n)
        return functional.cross_entropy(outputs, labels.long())
