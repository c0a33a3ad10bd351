"""What is added to the task loss: the regularizers of the paper and its baselines, behind one interface.

An objective maps a batch of primary features and a batch of harmful features to named scalars, already weighted,
whose sum is added to the loss. The same classes serve the linear extractor and deep nets.
"""

from __future__ import annotations

import difflib
import math
from typing import Any, ClassVar

import torch
from torch.nn import functional

from hf_immunize.regularizers import (
    Terms,
    _FeatureTerm,
    _raw_ill,
    _raw_well,
    _scale_free_ill,
    _scale_free_well,
    _unit,
    features_r_ill,
    features_r_well,
)

__all__ = ["IMMA", "OBJECTIVES", "Condition", "Objective", "OptKappa", "OptLogKappa", "RIllOnly", "get_objective"]

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

    Raises:
        ValueError: a weight that is negative, infinite or NaN.
    """

    name: ClassVar[str] = ""
    needs_harmful_labels: ClassVar[bool] = False
    is_spectral: ClassVar[bool] = False
    preconditioned: ClassVar[bool] = False

    def __init__(self, lambda_primary: float = 1.0, lambda_harmful: float = 1.0, scale_free: bool = True) -> None:
        self.lambda_primary = _weight("lambda_primary", lambda_primary)
        self.lambda_harmful = _weight("lambda_harmful", lambda_harmful)
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


class Condition(Objective):
    """λ_P R_well(H_P) + λ_H R_ill(H_H): the paper's objective (Zheng et al., ICML 2025, arXiv 2505.23760, section 4).

    Example:
        >>> x = torch.diag(torch.tensor([2.0, 1.0]))
        >>> sorted(Condition()(x, x))
        ['r_ill', 'r_well']
    """

    name = "condition"
    is_spectral = True
    preconditioned = True

    def __call__(
        self,
        primary_features: torch.Tensor,
        harmful_features: torch.Tensor,
        harmful_labels: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """See :meth:`Objective.__call__`; the parts are ``r_well`` and ``r_ill``."""
        parts = {}
        if self.uses_primary:
            parts["r_well"] = self.lambda_primary * features_r_well(primary_features, self.scale_free)
        if self.uses_harmful:
            parts["r_ill"] = self.lambda_harmful * features_r_ill(harmful_features, self.scale_free)
        return parts

    def spectral_parts(self, primary_values: torch.Tensor, harmful_values: torch.Tensor) -> Parts:
        """See :meth:`Objective.spectral_parts`."""
        well, ill = (_scale_free_well, _scale_free_ill) if self.scale_free else (_raw_well, _raw_ill)
        parts: Parts = {}
        if self.uses_primary:
            parts["r_well"] = _weighted(self.lambda_primary, well(primary_values))
        if self.uses_harmful:
            parts["r_ill"] = _weighted(self.lambda_harmful, ill(harmful_values))
        return parts


class RIllOnly(Condition):
    """λ_H R_ill(H_H) alone: the paper's ablation with λ_P = 0 (arXiv 2505.23760, section 5).

    ``lambda_primary`` is accepted, so that all objectives are built alike, and set to zero.
    """

    name = "r_ill_only"

    def __init__(self, lambda_primary: float = 0.0, lambda_harmful: float = 1.0, scale_free: bool = True) -> None:
        _weight("lambda_primary", lambda_primary)
        super().__init__(0.0, lambda_harmful, scale_free)


class OptKappa(Objective):
    """λ_P κ(H_P) − λ_H κ(H_H), the condition numbers themselves: the baseline of arXiv 2505.23760, section 5.

    Args:
        lambda_primary: weight λ_P ≥ 0.
        lambda_harmful: weight λ_H ≥ 0.
        scale_free: without effect, κ has no scale; accepted so that all objectives are built alike.
        log: log κ in place of κ. With both weights equal the sum is then −log RIR up to a constant.

    The gradient moves only the largest and the smallest singular value above rounding.
    """

    name = "opt_kappa"
    is_spectral = True

    def __init__(
        self, lambda_primary: float = 1.0, lambda_harmful: float = 1.0, scale_free: bool = True, log: bool = False
    ) -> None:
        super().__init__(lambda_primary, lambda_harmful, scale_free)
        self.log = bool(log)

    @property
    def _terms(self) -> Terms:
        return _log_kappa if self.log else _kappa

    def __call__(
        self,
        primary_features: torch.Tensor,
        harmful_features: torch.Tensor,
        harmful_labels: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """See :meth:`Objective.__call__`; the parts are ``kappa_primary`` and ``kappa_harmful`` (negative)."""
        parts = {}
        if self.uses_primary:
            parts["kappa_primary"] = self.lambda_primary * _FeatureTerm.apply(primary_features, self._terms)
        if self.uses_harmful:
            parts["kappa_harmful"] = -self.lambda_harmful * _FeatureTerm.apply(harmful_features, self._terms)
        return parts

    def spectral_parts(self, primary_values: torch.Tensor, harmful_values: torch.Tensor) -> Parts:
        """See :meth:`Objective.spectral_parts`."""
        parts: Parts = {}
        if self.uses_primary:
            parts["kappa_primary"] = _weighted(self.lambda_primary, self._terms(primary_values))
        if self.uses_harmful:
            parts["kappa_harmful"] = _weighted(-self.lambda_harmful, self._terms(harmful_values))
        return parts


class OptLogKappa(OptKappa):
    """λ_P log κ(H_P) − λ_H log κ(H_H): :class:`OptKappa` in logarithms, which no scale of κ drowns."""

    name = "opt_log_kappa"

    def __init__(self, lambda_primary: float = 1.0, lambda_harmful: float = 1.0, scale_free: bool = True) -> None:
        super().__init__(lambda_primary, lambda_harmful, scale_free, log=True)


class IMMA(Objective):
    """−λ_H · the harmful loss after an inner adaptation: bi-level, after IMMA (Zheng & Yeh, ECCV 2024).

    The inner problem is the attacker's: a linear head on the harmful features, from zero, ``inner_steps`` steps of
    gradient descent. The outer problem raises the loss that is left, with the gradient taken through the adaptation.
    Float labels are fitted with half the mean squared error, integer labels with cross-entropy.

    Args:
        lambda_primary: accepted so that all objectives are built alike; the primary task loss is IMMA's own primary
            term, so this is set to zero.
        lambda_harmful: weight λ_H ≥ 0.
        scale_free: without effect with the default inner step, which makes the adaptation free of the features' scale.
        inner_steps: length of the adaptation, at least 1.
        inner_learning_rate: its step; None takes 1/L, L the largest curvature of the inner loss, held constant in the
            backward pass.
        n_classes: width of the harmful head for integer labels; None takes the largest label in the batch plus one.

    Raises:
        ValueError: ``inner_steps`` below 1, a step that is not positive, and at the call missing or ill-shaped labels.
    """

    name = "imma"
    needs_harmful_labels = True

    def __init__(
        self,
        lambda_primary: float = 0.0,
        lambda_harmful: float = 1.0,
        scale_free: bool = True,
        inner_steps: int = 5,
        inner_learning_rate: float | None = None,
        n_classes: int | None = None,
    ) -> None:
        _weight("lambda_primary", lambda_primary)
        super().__init__(0.0, lambda_harmful, scale_free)
        if isinstance(inner_steps, bool) or not isinstance(inner_steps, int) or inner_steps < 1:
            raise ValueError(f"inner_steps must be a whole number of at least 1, got {inner_steps!r}.")
        if inner_learning_rate is not None and not (math.isfinite(inner_learning_rate) and inner_learning_rate > 0):
            raise ValueError(
                f"inner_learning_rate must be positive and finite, got {inner_learning_rate!r}. None takes 1/L."
            )
        self.inner_steps = inner_steps
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
            raise ValueError("The objective 'imma' adapts a harmful head and needs the labels of the harmful data.")
        if labels.shape[:1] != features.shape[:1] or labels.ndim > 2:
            raise ValueError(
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
                raise ValueError(f"Integer labels must have shape (n,) and lie in 0..{classes - 1}; set n_classes.")
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


#: Every objective by its name.
OBJECTIVES: dict[str, type[Objective]] = {one.name: one for one in (Condition, RIllOnly, OptKappa, OptLogKappa, IMMA)}


def get_objective(name: str, **kwargs: Any) -> Objective:
    """Builds the objective called ``name`` with the given options.

    Raises:
        ValueError: no such objective; the message names the nearest one.
        TypeError: an option that this objective does not have.
    """
    if name not in OBJECTIVES:
        near = difflib.get_close_matches(str(name), OBJECTIVES, n=1, cutoff=0.0)[0]
        raise ValueError(f"Unknown objective {name!r}. Did you mean {near!r}? Known: {', '.join(sorted(OBJECTIVES))}.")
    return OBJECTIVES[name](**kwargs)


def _kappa(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    log_value, log_slope = _log_kappa(values)
    return log_value.exp(), log_value.exp() * log_slope


def _log_kappa(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    slope = _unit(values, -1) / values[-1] - _unit(values, 0) / values[0]
    return values[-1].log() - values[0].log(), slope


def _weighted(weight: float, term: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return weight * term[0], weight * term[1]


def _weight(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} must be a finite number of at least 0, got {value!r}. Use 0 to leave the part out.")
    return float(value)
