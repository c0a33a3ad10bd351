"""Immunization of a linear extractor f(x) = xᵀθ: Algorithm 1 of arXiv 2505.23760, full batch, float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from numpy.typing import ArrayLike

from hf_immunize.errors import InputError
from hf_immunize.linear.descent import Descent, Head, StepRule, decay
from hf_immunize.linear.inputs import as_matrix, check_same_columns, warn_about_columns
from hf_immunize.linear.optimum import OptimalExtractor, optimal_linear_extractor
from hf_immunize.linear.task import Loss, PrimaryTask
from hf_immunize.objectives.objective import Objective
from hf_immunize.objectives.registry import get_objective
from hf_immunize.spectra.ratio import RIR, relative_immunization_ratio
from hf_immunize.spectra.spectrum import spectrum

__all__ = ["DivergenceError", "LinearImmunization", "OptimalExtractor", "immunize_linear", "optimal_linear_extractor"]


class DivergenceError(InputError):
    """The step size was too large; the message names it and a smaller one to try."""


@dataclass(frozen=True)
class LinearImmunization:
    """What :func:`immunize_linear` returns.

    Attributes:
        theta: θᴵ, shape (D_in, D_hid), float64.
        omega: the primary head fitted to the end on θᴵ: shape (D_hid,) or (D_hid, m).
        rir: the RIR against θ0, from singular value decompositions of the features.
        history: lists over steps, the first entry being θ0: ``loss`` (of the head as it descends), ``kappa_primary``,
            ``kappa_harmful``, ``rir``, ``step_size`` and one list for each part of the objective.
        ceiling: the largest RIR of a linear extractor on these data (see ``optimum`` for what that means).
        optimum: the closed form for these data.
        primary_loss: min_ω of the primary loss on θᴵ.
        initial_primary_loss: min_ω of the primary loss on θ0.
    """

    theta: torch.Tensor = field(repr=False)
    omega: torch.Tensor = field(repr=False)
    rir: RIR
    history: dict[str, list[float]] = field(repr=False)
    ceiling: float
    optimum: OptimalExtractor = field(repr=False)
    primary_loss: float
    initial_primary_loss: float

    @property
    def share_of_ceiling(self) -> float:
        """RIR over the ceiling; above 1 only where ``optimum.bounded`` is False."""
        return self.rir.rir / self.ceiling

    def __str__(self) -> str:
        bound = "" if self.optimum.bounded else " (of the shared directions)"
        return (
            f"{self.rir}; {100 * self.share_of_ceiling:.3g} % of the ceiling {self.ceiling:.4g}{bound}; primary loss "
            f"{self.primary_loss:.6g} ({self.initial_primary_loss:.6g} before)"
        )


def immunize_linear(
    x_primary: ArrayLike,
    y_primary: ArrayLike,
    x_harmful: ArrayLike,
    *,
    y_harmful: ArrayLike | None = None,
    objective: str | Objective = "condition",
    lambda_primary: float = 1.0,
    lambda_harmful: float = 1e-2,
    learning_rate: float = 0.2,
    steps: int = 1000,
    n_hidden: int | None = None,
    loss: Loss = "l2",
    step_rule: StepRule = "constant",
    head: Head | None = None,
    initial_omega: ArrayLike | None = None,
    callback: Callable[[int], None] | None = None,
) -> LinearImmunization:
    """Algorithm 1 of the paper: θ ← θ − η∇_θL − ηλ_P K_P⁻¹∇_θR_well(H_P) − ηλ_H K_H⁻¹∇_θR_ill(H_H).

    θ starts from the identity, the primary head ω from its optimum there. X_P and X_H are taken in units of their
    largest singular value, so K_P and K_H have σ_max = 1. K⁻¹ stands on the input side of θ and is the pseudo-inverse
    where K is singular.

    Args:
        x_primary: X_P, shape (n_P, D_in).
        y_primary: shape (n_P,) or (n_P, m) of numbers for "l2"; (n_P,) of class numbers 0.. for "logistic".
        x_harmful: X_H, shape (n_H, D_in).
        y_harmful: harmful labels, where ``objective.needs_harmful_labels``; floats or class numbers.
        objective: a name in ``OBJECTIVES`` (built with the raw regularizers of the paper) or an :class:`Objective`,
            which then brings its own λ.
        lambda_primary: λ_P.
        lambda_harmful: λ_H.
        learning_rate: η.
        steps: number of steps.
        n_hidden: D_hid; D_in where None.
        loss: "l2", half the mean squared error, or "logistic", the mean cross-entropy (one logit for two classes).
        step_rule: "constant" is the paper's. "natural" scales the gradient of each part so that its largest derivative
            by an eigenvalue of the Hessian is λ (Property 3 of the paper bounds the step in such a unit), lets η fall
            to zero on a squared cosine and keeps σ_max(H_P) = 1: λ and η are then pure numbers. With η = 0.3 and the
            default weights it comes close to the ceiling. "adam" applies Adam to the sum of the gradients, η falling
            on a cosine; the usual choice for ``OptKappa(log=True)``.
        head: "descent" moves ω by one gradient step for each of θ, as the paper does; "exact" keeps it at min_ω, so
            that a long step of θ does not turn a lagging head into a pull on θ ("l2" only). None takes "exact" for the
            step rules that are not the paper's, where it can.
        initial_omega: where the head starts, shape of ω; None takes its optimum on θ0.
        callback: called with the number of steps done, after each.

    Raises:
        TypeError: not tables of numbers.
        ValueError: different widths, NaN cells (columns are named), missing or ill-shaped labels, options out of range.
        DivergenceError: a step size that blows up; the message suggests a smaller one.

    Warns:
        UserWarning: constant or dependent columns, by name.
    """
    task = PrimaryTask.of(x_primary, y_primary, loss)
    x_h, columns = as_matrix(x_harmful, "x_harmful")
    check_same_columns(task.x, x_h)
    warn_about_columns(task.x, "x_primary", task.columns)
    warn_about_columns(x_h, "x_harmful", columns)
    if isinstance(objective, str):
        objective = get_objective(
            objective, lambda_primary=lambda_primary, lambda_harmful=lambda_harmful, scale_free=False
        )
    if objective.sees_model:
        raise InputError(
            f"The objective {objective.name!r} trains the weights of a network. A linear extractor has features alone: "
            "choose another one, or train a network with immunize()."
        )
    _check_options(learning_rate, steps, n_hidden, step_rule, objective)
    labels = _harmful_labels(y_harmful, objective, x_h.shape[0])

    head = _head_rule(head, step_rule, loss)
    d_in = x_h.shape[1]
    start = theta = torch.eye(d_in, n_hidden or d_in, dtype=torch.float64)
    first_p, first_h = spectrum(task.x @ theta), spectrum(x_h @ theta)
    scaled = task.scaled()
    omega = scaled.fit(theta) if initial_omega is None else scaled.as_head(initial_omega, theta.shape[1])
    rows_h = x_h / torch.linalg.matrix_norm(x_h, 2)
    run = Descent(scaled, omega, rows_h, labels, objective, step_rule, head, first_p, first_h)

    for step in range(1, steps + 1):
        gradient = run.measure(theta)
        if gradient is not None:
            theta = run.step(theta, gradient, learning_rate * decay(step_rule, (step - 1) / steps), step)
        if gradient is None or not run.is_sound(theta):
            raise DivergenceError(_divergence(learning_rate, step, objective, step_rule))
        if callback is not None:
            callback(step)
    if run.measure(theta) is None:
        raise DivergenceError(_divergence(learning_rate, steps, objective, step_rule))

    rir = relative_immunization_ratio(spectrum(x_h @ theta), first_h, spectrum(task.x @ theta), first_p)
    optimum = optimal_linear_extractor(task.x, x_h)
    fitted = task.fit(theta)
    return LinearImmunization(
        theta=theta,
        omega=fitted,
        rir=rir,
        history=run.history,
        ceiling=optimum.spread * first_p.condition_number / first_h.condition_number,
        optimum=optimum,
        primary_loss=float(task.loss_of(theta, fitted)),
        initial_primary_loss=float(task.loss_of(start, task.fit(start))),
    )


def _divergence(learning_rate: float, step: int, objective: Objective, rule: StepRule) -> str:
    other = (
        ""
        if rule == "natural" or not objective.is_spectral
        else (", or step_rule='natural', whose step is measured in the unit of the spectrum")
    )
    return (
        f"The step size {learning_rate:g} diverged at step {step} ({objective!r}, step_rule {rule!r}). "
        f"Try learning_rate={learning_rate / 10:.2g}, a smaller weight{other}."
    )


def _head_rule(head: Head | None, rule: StepRule, loss: Loss) -> Head:
    if head not in (None, "descent", "exact"):
        raise InputError(f"head must be 'descent' or 'exact', got {head!r}.")
    if head == "exact" and loss != "l2":
        raise InputError("head='exact' has a closed form for loss='l2' only. Use head='descent'.")
    return head or ("exact" if rule != "constant" and loss == "l2" else "descent")


def _harmful_labels(labels: ArrayLike | None, objective: Objective, n: int) -> torch.Tensor | None:
    if not objective.needs_harmful_labels:
        return None
    if labels is None:
        raise InputError(f"The objective {objective.name!r} needs y_harmful, the labels of the harmful data.")
    labels = torch.as_tensor(labels.to_numpy() if hasattr(labels, "to_numpy") else labels).detach().cpu()
    if labels.shape[:1] != (n,) or not torch.isfinite(labels.double()).all():
        raise InputError(f"y_harmful must hold one finite label for each of the {n} rows, got {tuple(labels.shape)}.")
    return labels.double() if labels.is_floating_point() else labels.long()


def _check_options(
    learning_rate: float, steps: int, n_hidden: int | None, step_rule: str, objective: Objective
) -> None:
    if not (isinstance(learning_rate, (int, float)) and math.isfinite(learning_rate) and learning_rate > 0):
        raise InputError(f"learning_rate must be positive and finite, got {learning_rate!r}.")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise InputError(f"steps must be a whole number of at least 0, got {steps!r}.")
    if n_hidden is not None and (isinstance(n_hidden, bool) or not isinstance(n_hidden, int) or n_hidden < 1):
        raise InputError(f"n_hidden must be a whole number of at least 1, got {n_hidden!r}.")
    if step_rule not in ("constant", "natural", "adam"):
        raise InputError(f"step_rule must be 'constant', 'natural' or 'adam', got {step_rule!r}.")
    if step_rule == "natural" and not objective.is_spectral:
        raise InputError(
            f"step_rule='natural' measures steps by the spectrum, and the objective {objective.name!r} is no function "
            "of it. Use 'constant' or 'adam'."
        )
