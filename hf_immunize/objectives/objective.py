"""What an objective is: a batch of primary and a batch of harmful features → named scalars to add to the loss.

The scalars are already weighted. The same classes serve the linear extractor and deep nets; those that see the model
(:class:`ModelObjective`) serve deep nets alone.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from hf_immunize.errors import InputError

__all__ = [
    "ModelObjective",
    "Objective",
    "Parts",
    "Phase",
    "StepView",
    "checked_count",
    "checked_positive",
    "checked_weight",
    "part_with_slopes",
    "unit_slopes",
    "weighted",
    "with_unit_gradient",
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
        defaults: arguments of a run with this objective where none are given.
        without_effect: which of the three arguments it does not read; they are accepted so that all are built alike.

    Raises:
        ValueError: a weight that is negative, infinite or NaN.
    """

    name: ClassVar[str] = ""
    needs_harmful_labels: ClassVar[bool] = False
    is_spectral: ClassVar[bool] = False
    preconditioned: ClassVar[bool] = False
    sees_model: ClassVar[bool] = False
    defaults: ClassVar[Mapping[str, Any]] = {
        "lambda_primary": 1.0,
        "lambda_harmful": 0.3,
        "max_steps": 300,
        "trainable": ["last"],
        "per_device_harmful_batch_size": None,
    }
    without_effect: ClassVar[frozenset[str]] = frozenset()

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
            harmful_labels: shape (n_H,) of integers, or (n_H,) or (n_H, m) of floats; read where
                the objective ``needs_harmful_labels``.
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

    def state_dict(self) -> dict[str, Any]:
        """What it carries from step to step, as tensors and plain values; nothing for most."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what :meth:`state_dict` gave."""

    def __repr__(self) -> str:
        given = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in given.items())})"


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
        run_seed: of the whole run.
        progress: share of the run's steps that lie behind.
        last_block: names of those parameters that ``trainable="last"`` would train.
        redrawn: seed → fresh values of the last block's parameters whose modules can draw them, the head's left out.
        batch_statistics: within it the BatchNorms that own one of the named parameters read the statistics of their
            batch, and keep their own as they are.
        layout: in which the model's convolutions run fastest.
        primary_logits: shape (n_P, classes), of the step's own forward pass.
        initial_logits: θ0's on the primary batch, in evaluation mode and without a gradient.
    """

    parameters: Mapping[str, torch.Tensor]
    primary: Mapping[str, Any]
    harmful: Mapping[str, Any]
    primary_features: torch.Tensor
    harmful_features: torch.Tensor
    hidden: Mapping[str, torch.Tensor]
    features: Callable[[Mapping[str, torch.Tensor], Mapping[str, Any]], torch.Tensor]
    seed: int = 0
    run_seed: int = 0
    progress: float = 0.0
    last_block: frozenset[str] = frozenset()
    redrawn: Callable[[int], Mapping[str, torch.Tensor]] = lambda seed: {}
    batch_statistics: Callable[[Iterable[str]], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    layout: torch.memory_format = torch.contiguous_format
    primary_logits: torch.Tensor = torch.empty(0)
    initial_logits: Callable[[], torch.Tensor] = lambda: torch.empty(0)


@dataclass(frozen=True)
class Phase:
    """What a step is like.

    Attributes:
        harmful_features: the harmful batch is in the step's own forward pass.
        balanced: the parts, the task loss first, whose common gradient is scaled to norm 1.
        labels: the loss holds the cross-entropy of the primary labels.
    """

    harmful_features: bool = True
    balanced: tuple[str, ...] = ()
    labels: bool = True


class ModelObjective(Objective):
    """An objective of the model and both batches: what attackers do to the weights, or what every layer holds.

    Attributes:
        reads_hidden: whether it reads what the modules that train give out.
        exact_over_processes: whether processes with a part of the batch each give what one with the whole gives.
        begins_elsewhere: whether :meth:`begin` changes the weights.
        tells_strength: whether smaller parts at another step of the run mean more protection, as a budget of accuracy
            takes them to.
    """

    sees_model = True
    reads_hidden: ClassVar[bool] = False
    exact_over_processes: ClassVar[bool] = True
    begins_elsewhere: ClassVar[bool] = False
    tells_strength: ClassVar[bool] = True

    def begin(self, model: nn.Module, seed: int) -> None:
        """Changes the weights that train, once before the first step; θ0 is what they were.

        The statistics of BatchNorms behind them are estimated anew afterwards.

        Args:
            model: unwrapped.
            seed: of the run.
        """

    @property
    def settles_from(self) -> float | None:
        """Share of the run after which the last block alone trains, learning rate and optimizer begun anew; or None."""
        return None

    def settles(self, progress: float) -> bool:
        """Whether the steps after this share of the run are of that last phase."""
        # Shares are rounded.
        return self.settles_from is not None and progress >= self.settles_from - 1e-9

    def phase(self, progress: float) -> Phase:
        """What the steps after this share of the run are like."""
        return Phase()

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


def part_with_slopes(
    value: torch.Tensor, slopes: Mapping[str, torch.Tensor], parameters: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """A scalar of the given value whose gradient is ``slopes``, by names of parameters."""
    linear = sum(((slope * parameters[name]).sum() for name, slope in slopes.items()), value.new_zeros(()))
    return value.detach() + (linear - linear.detach())


def unit_slopes(slopes: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same direction with norm 1 over all parameters; zero stays zero."""
    squares = [one.double().square().sum() for one in slopes.values()]
    norm = torch.stack(squares or [torch.zeros(())]).sum().sqrt()
    return {name: one / norm.clamp_min(torch.finfo(one.dtype).tiny).to(one.dtype) for name, one in slopes.items()}


def with_unit_gradient(
    parts: Mapping[str, tuple[torch.Tensor, float]], parameters: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The same values; the first has the gradient of the weighted sum, scaled to norm 1, and the others have none.

    Args:
        parts: name → value and weight.
        parameters: whose gradient counts, by name.
    """
    total = sum((weight * part for part, weight in parts.values()), torch.zeros(()))
    slopes = torch.autograd.grad(total, list(parameters.values()), retain_graph=True, allow_unused=True)
    found = {name: one for name, one in zip(parameters, slopes, strict=True) if one is not None}
    first = next(iter(parts))
    plain = {name: part.detach() for name, (part, _) in parts.items()}
    return plain | {first: part_with_slopes(plain[first], unit_slopes(found), parameters)}


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
