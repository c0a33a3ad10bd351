"""The primary task of the linear case: its loss, its gradients, and the head that is best for a given extractor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from numpy.typing import ArrayLike
from torch.nn import functional

from hf_immunize.errors import InputError
from hf_immunize.linear.inputs import as_matrix
from hf_immunize.spectra.eigen import rank_floor

__all__ = ["Loss", "PrimaryTask"]

Loss = Literal["l2", "logistic"]


@dataclass
class PrimaryTask:
    """The primary task: its loss, and the head that is best for a given θ."""

    x: torch.Tensor
    y: torch.Tensor
    loss: Loss
    columns: list[str]
    n_samples: int = 0
    offset: float = 0.0

    @classmethod
    def of(cls, x: ArrayLike, y: ArrayLike, loss: Loss) -> PrimaryTask:
        if loss not in ("l2", "logistic"):
            raise InputError(f"loss must be 'l2' or 'logistic', got {loss!r}.")
        x, columns = as_matrix(x, "x_primary")
        y = torch.as_tensor(y.to_numpy() if hasattr(y, "to_numpy") else y).detach().cpu()
        if y.ndim not in (1, 2) or y.shape[0] != x.shape[0]:
            raise InputError(f"y_primary must hold one target for each of the {x.shape[0]} rows, got {tuple(y.shape)}.")
        if not torch.isfinite(y.double()).all():
            raise InputError("y_primary holds NaN or infinite values.")
        if loss == "l2":
            return cls(x, y.double(), loss, columns, x.shape[0])
        if y.ndim != 1 or (y != y.round()).any() or y.min() < 0 or y.max() < 1:
            raise InputError("loss='logistic' needs y_primary of shape (n,) with class numbers 0, 1, …, two at least.")
        return cls(x, y.long(), loss, columns, x.shape[0])

    def scaled(self) -> PrimaryTask:
        """The same task with σ_max(K) = 1; for "l2" with many rows, on the R factor of X, which has fewer."""
        x = self.x / torch.linalg.matrix_norm(self.x, 2)
        if self.loss == "logistic" or x.shape[0] <= x.shape[1]:
            return PrimaryTask(x, self.y, self.loss, self.columns, self.n_samples)
        orthogonal, small = torch.linalg.qr(x)
        y = orthogonal.mT @ self.y
        return PrimaryTask(
            small, y, self.loss, self.columns, self.n_samples, float(self.y.square().sum() - y.square().sum())
        )

    @property
    def outputs(self) -> int | None:
        """Width of the head; None for a head of shape (D_hid,)."""
        if self.loss == "l2":
            return None if self.y.ndim == 1 else self.y.shape[1]
        classes = int(self.y.max()) + 1
        return None if classes == 2 else classes

    def loss_of(self, theta: torch.Tensor, omega: torch.Tensor) -> torch.Tensor:
        return self._loss_of_outputs(self.x @ theta @ omega)

    def _loss_of_outputs(self, outputs: torch.Tensor) -> torch.Tensor:
        if self.loss == "l2":
            return ((outputs - self.y).square().sum() + self.offset) / (2 * self.n_samples)
        if outputs.ndim == 1:
            return functional.binary_cross_entropy_with_logits(outputs, self.y.double())
        return functional.cross_entropy(outputs, self.y)

    def gradients(self, theta: torch.Tensor, omega: torch.Tensor) -> tuple[float, torch.Tensor, torch.Tensor]:
        """The loss and its gradients by θ and ω."""
        features = self.x @ theta
        outputs = features @ omega
        if self.loss == "l2":
            error = outputs - self.y
        elif outputs.ndim == 1:
            error = outputs.sigmoid() - self.y
        else:
            error = outputs.softmax(dim=1) - functional.one_hot(self.y, outputs.shape[1])
        error = error / self.n_samples
        columns = error.reshape(error.shape[0], -1)
        by_theta = (self.x.mT @ columns) @ omega.reshape(omega.shape[0], -1).mT
        return self._loss_of_outputs(outputs).item(), by_theta, features.mT @ error

    def fit(self, theta: torch.Tensor) -> torch.Tensor:
        """Least squares in closed form (minimum norm), or the logistic head by L-BFGS on whitened features."""
        features = self.x @ theta
        if self.loss == "l2":
            targets = self.y.reshape(self.y.shape[0], -1)
            solution = torch.linalg.lstsq(features, targets, driver="gelsd").solution
            return solution.reshape(-1) if self.y.ndim == 1 else solution
        left, values, right = torch.linalg.svd(features, full_matrices=False)
        kept = values > rank_floor(*features.shape) * values[0]
        left, back = left[:, kept], right[kept].mT / values[kept]
        shape = (left.shape[1],) if self.outputs is None else (left.shape[1], self.outputs)
        head = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
        # Separable classes have no finite optimum; the number of iterations bounds the head there.
        optimizer = torch.optim.LBFGS([head], max_iter=200, line_search_fn="strong_wolfe")

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            value = self._loss_of_outputs(left @ head)
            value.backward()
            return value

        optimizer.step(closure)
        return back @ head.detach()

    def as_head(self, omega: ArrayLike, hidden: int) -> torch.Tensor:
        omega = torch.as_tensor(omega).detach().double()
        shape = (hidden,) if self.outputs is None else (hidden, self.outputs)
        if tuple(omega.shape) != shape or not torch.isfinite(omega).all():
            raise InputError(f"initial_omega must be finite and have shape {shape}, got {tuple(omega.shape)}.")
        return omega
