"""What an objective is: a batch of primary and a batch of harmful features → named scalars to add to the loss.

The scalars are already weighted. The same classes serve the linear extractor and deep nets; those that see the model
(:class:`ModelObjective`) serve deep nets alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from hf_immunize.errors import InputError

__all__ = [
    "ModelObjective",
    "Objective",
    "Parts",
    "StepView",
    "checked_count",
    "checked_positive",
    "checked_weight",
    "weighted",
]


#: Name of a part -> its weighted value and its derivative by each eigenvalue of its Hessian.
Parts = dict[str, tuple[torch.Tensor, torch.Tensor]]


class Objective:
    """Base class: holds the two weights and says which batch is needed.

    Args:
        lambda_primary: weight λ_P ≥ 0 of what is asked of the primary features.
        lambda_harmful: weight λ_H ≥ 0 of what is asked of the harmful features.
        scale_free: regularizers that no rescaling of the features changes; False gives the paper's raw form.

    Attributes:
        name: the key in :data:`OBJECTIVES`.
        needs_harmful_labels: whether a call must be given the labels of the harmful batch.
        is_spectral: whether the parts are functions of the spectra of the two Hessians alone.
        preconditioned: whether Algorithm 1 multiplies the θ-gradients of this objective by K⁻¹.
        sees_model: whether it reads more than features, so that :meth:`ModelObjective.of_step` is called.

    Raises:
        ValueError: a weight that is negative, infinite or NaN.
    """

    name: ClassVar[str] = ""
    needs_harmful_labels: ClassVar[bool] = False
    is_spectral: ClassVar[bool] = False
    preconditioned: ClassVar[bool] = False
    sees_model: ClassVar[bool] = False

    def __init__(self, lambda_primary: float = 1.0, lambda_harmful: float = 1.0, scale_free: bool = True) -> None:
        self.lambda_primary = checked_weight("lambda_primary", lambda_primary)
        self.lambda_harmful = checked_weight("lambda_harmful", lambda_harmful)
        self.scale_free = bool(scale_free)

    @property
    def uses_primary(self) -> bool:
        """Whether a call reads the primary features."""
        return self.lambda_primary > 0

    @property
    def uses_harmful(self) -> bool:
        """Whether a call reads the harmful features."""
        return self.lambda_harmful > 0

    def __call__(
        self,
        primary_features: torch.Tensor,
        harmful_features: torch.Tensor,
        harmful_labels: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Named, weighted scalars to add to the loss; a part with weight zero is left out.

        Args:
            primary_features: shape (n_P, d).
            harmful_features: shape (n_H, d).
            harmful_labels: shape (n_H,) of integers, or (n_H,) or (n_H, m) of floats; read by IMMA only.
        """
        raise NotImplementedError

    def spectral_parts(self, primary_values: torch.Tensor, harmful_values: torch.Tensor) -> Parts:
        """The same parts as functions of the eigenvalues (ascending, positive) of the two Hessians.

        Returns:
            for each part its weighted value and its derivative by each eigenvalue.

        Raises:
            NotImplementedError: the objective is no function of the spectra (:attr:`is_spectral` says so).
        """
        raise NotImplementedError(f"The objective {self.name!r} is no function of the spectra.")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


@dataclass(frozen=True)
class StepView:
    """What an objective that sees the model is given of one training step.

    Attributes:
        parameters: those that train, by name.
        primary, harmful: the two batches of model inputs, with ``labels``.
        primary_features: shape (n_P, d), of the step's own forward pass.
        harmful_features: shape (n_H, d).
        hidden: module name → its output on the harmful batch, of the modules that train; empty unless the objective
            :attr:`ModelObjective.reads_hidden`.
        features: (parameters in place of the model's, batch) → features, differentiable in those parameters.
        seed: of what the objective draws in this step: the same on all processes, and in a run that was resumed.
    """

    parameters: Mapping[str, torch.Tensor]
    primary: Mapping[str, Any]
    harmful: Mapping[str, Any]
    primary_features: torch.Tensor
    harmful_features: torch.Tensor
    hidden: Mapping[str, torch.Tensor]
    features: Callable[[Mapping[str, torch.Tensor], Mapping[str, Any]], torch.Tensor]
    seed: int = 0


class ModelObjective(Objective):
    """An objective of the model and both batches: what attackers do to the weights, or what every layer holds.

    Attributes:
        reads_hidden: whether it reads what the modules that train give out.
        exact_over_processes: whether processes with a part of the batch each give what one with the whole gives.
    """

    sees_model = True
    reads_hidden: ClassVar[bool] = False
    exact_over_processes: ClassVar[bool] = True

    def of_step(self, step: StepView, gather: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, torch.Tensor]:
        """Named, weighted scalars to add to the loss of a step.

        Args:
            step: the model and its batches.
            gather: rows of this process → rows of all processes, with the gradient of this one's.
        """
        raise NotImplementedError

    def __call__(
        self,
        primary_features: torch.Tensor,
        harmful_features: torch.Tensor,
        harmful_labels: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Refused: features alone do not tell what this objective asks of the model."""
        raise InputError(
            f"The objective {self.name!r} trains the weights of a network, and features alone were given. Use it with "
            "ImmunizationTrainer or immunize()."
        )


def weighted(weight: float, term: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return weight * term[0], weight * term[1]


def checked_weight(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise InputError(f"{name} must be a finite number of at least 0, got {value!r}. Use 0 to leave the part out.")
    return float(value)


def checked_count(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name} must be a whole number of at least 1, got {value!r}.")
    return value


def checked_positive(name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{name} must be positive and finite, got {value!r}.")
    return float(value)
