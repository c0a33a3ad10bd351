"""The steps of Algorithm 1 (arXiv 2505.23760) and of its baselines on a linear extractor."""

from __future__ import annotations

import math
from typing import Literal

import torch

from hf_immunize.linear.preconditioning import PreconditionedIdentity
from hf_immunize.linear.task import PrimaryTask
from hf_immunize.objectives.objective import Objective
from hf_immunize.spectra.eigen import GramEigen, rank_floor
from hf_immunize.spectra.spectrum import Spectrum

__all__ = ["Descent", "Head", "StepRule", "decay"]

StepRule = Literal["constant", "natural", "adam"]
Head = Literal["descent", "exact"]
#: θ this many times its initial norm, or a loss this many times that of a zero head, counts as divergence.
BLOW_UP = 1e6
ADAM_BETAS, ADAM_EPS = (0.9, 0.999), 1e-30


def decay(rule: StepRule, progress: float) -> float:
    """Factor on η after the share ``progress`` of the steps; the squared cosine ends flatter, where eigenvalues tie."""
    if rule == "constant":
        return 1.0
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return cosine if rule == "adam" else cosine**2


def _log_kappa(eigen: GramEigen, rank: int) -> float:
    """Log κ at θ0's rank; where the Gram does not resolve that index, at its smallest resolved eigenvalue."""
    return float(eigen.values[-1].log() - eigen.values[-min(rank, eigen.values.numel())].log())


class Descent:
    """One run of Algorithm 1: the two sides, the head, the optimizer's memory and the history."""

    def __init__(
        self,
        task: PrimaryTask,
        omega: torch.Tensor,
        rows_h: torch.Tensor,
        labels: torch.Tensor | None,
        objective: Objective,
        rule: StepRule,
        head: Head,
        first_p: Spectrum,
        first_h: Spectrum,
    ) -> None:
        self.task, self.omega, self.labels, self.objective = task, omega, labels, objective
        self.rule, self.head = rule, head
        self.first_p, self.first_h = first_p, first_h
        self.rows_p, self.rows_h = _small(task.x), rows_h if labels is not None else _small(rows_h)
        self.back_p, self.back_h = self.rows_p.mT, self.rows_h.mT
        if objective.preconditioned:
            # K⁻¹Xᵀ takes a gradient by the features Xθ straight to K⁻¹ times the gradient by θ.
            self.back_p = PreconditionedIdentity(task.x).apply_inverse(self.back_p)
            self.back_h = PreconditionedIdentity(rows_h).apply_inverse(self.back_h)
        self.history: dict[str, list[float]] = {
            name: [] for name in ("loss", "kappa_primary", "kappa_harmful", "rir", "step_size")
        }
        self.span = _joint_span(self.rows_p, self.rows_h) if rule == "natural" else None
        self.moments: tuple[torch.Tensor, torch.Tensor] | None = None
        # The natural step keeps the features' scale; what grows then are directions that only the harmful task uses.
        self.norm_limit = (BLOW_UP**2 if rule == "natural" else BLOW_UP) * math.sqrt(task.x.shape[1])
        self.loss_limit = BLOW_UP * max(float(task.y.double().square().sum()), 1.0)

    def measure(self, theta: torch.Tensor) -> torch.Tensor | None:
        """Adds the state at θ to the history; the gradient by θ, or None where the loss has blown up."""
        primary, harmful = GramEigen.of(self.rows_p @ theta), GramEigen.of(self.rows_h @ theta)
        log_p, log_h = _log_kappa(primary, self.first_p.rank), _log_kappa(harmful, self.first_h.rank)
        gain = log_h - self.first_h.log_condition_number - log_p + self.first_p.log_condition_number
        self.scale = float(primary.values[-1].sqrt())
        if self.head == "exact":
            self.omega = primary.least_squares(self.task.y)
        loss, gradient, self.omega_gradient = self.task.gradients(theta, self.omega)
        if not loss <= self.loss_limit:
            return None
        state = {"loss": loss, "kappa_primary": math.exp(log_p), "kappa_harmful": math.exp(log_h)}
        state["rir"] = math.exp(gain)
        if self.objective.is_spectral:
            parts = self.objective.spectral_parts(primary.values, harmful.values)
            for name, (value, slope) in parts.items():
                state[name] = value.item()
                gradient = gradient + self._spectral_gradient(name, slope, primary, harmful)
        else:
            leaf = theta.detach().requires_grad_(True)
            values = self.objective(self.rows_p @ leaf, self.rows_h @ leaf, self.labels)
            state |= {name: value.item() for name, value in values.items()}
            if values:
                gradient = gradient + torch.autograd.grad(torch.stack(list(values.values())).sum(), leaf)[0]
        for name, number in state.items():
            self.history.setdefault(name, []).append(number)
        return gradient

    def _spectral_gradient(
        self, name: str, slope: torch.Tensor, primary: GramEigen, harmful: GramEigen
    ) -> torch.Tensor:
        is_primary = name in ("r_well", "kappa_primary")
        side, back = (primary, self.back_p) if is_primary else (harmful, self.back_h)
        if self.rule == "natural":
            weight = self.objective.lambda_primary if is_primary else self.objective.lambda_harmful
            slope = slope * (weight / slope.abs().max().clamp_min(torch.finfo(torch.float64).tiny))
        return back @ side.gradient(slope)

    def step(self, theta: torch.Tensor, gradient: torch.Tensor, size: float, number: int) -> torch.Tensor:
        """One step of θ and, where it descends, of ω."""
        self.history["step_size"].append(size)
        if self.rule == "adam":
            gradient = self._adam(gradient, number)
        if self.head == "descent":
            self.omega = self.omega - size * self.omega_gradient
        theta = theta - size * gradient
        if self.rule != "natural":
            return theta
        # Long steps shrink all features together, which no condition number sees and rounding does: the scale goes to
        # the head. What neither task sees of θ stays as it is.
        seen = theta if self.span is None else self.span @ (self.span.mT @ theta)
        self.omega = self.omega * self.scale
        return theta + (1 / self.scale - 1) * seen

    def _adam(self, gradient: torch.Tensor, number: int) -> torch.Tensor:
        first, second = self.moments or (torch.zeros_like(gradient), torch.zeros_like(gradient))
        first = ADAM_BETAS[0] * first + (1 - ADAM_BETAS[0]) * gradient
        second = ADAM_BETAS[1] * second + (1 - ADAM_BETAS[1]) * gradient.square()
        self.moments = first, second
        root = (second / (1 - ADAM_BETAS[1] ** number)).sqrt()
        return first / (1 - ADAM_BETAS[0] ** number) / (root + ADAM_EPS)

    def is_sound(self, theta: torch.Tensor) -> bool:
        return float(theta.norm()) <= self.norm_limit


def _small(rows: torch.Tensor) -> torch.Tensor:
    """The R factor where there are more rows than columns: the same Gram for every θ, with fewer rows."""
    return torch.linalg.qr(rows, mode="r").R if rows.shape[0] > rows.shape[1] else rows


def _joint_span(rows_p: torch.Tensor, rows_h: torch.Tensor) -> torch.Tensor | None:
    """Orthonormal basis (D, r) of what the two tasks see of θ together; None where that is everything."""
    both = torch.cat([rows_p, rows_h])
    _, values, right = torch.linalg.svd(both, full_matrices=False)
    kept = right[values > rank_floor(*both.shape) * values[0]].mT
    return None if kept.shape[1] == both.shape[1] else kept
