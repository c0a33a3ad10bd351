"""Linear probes on frozen features: four attackers, each a function from training rows to test accuracy over steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

__all__ = ["PROBES", "Standardizer", "fit_probe"]

#: Learning rates among which the Adam attacker takes its best, ridge penalties likewise: an attacker tunes.
ADAM_RATES = (1e-3, 1e-2, 1e-1)
RIDGE_PENALTIES = (1e-8, 1e-6, 1e-4, 1e-2, 1.0)


@dataclass(frozen=True)
class Task:
    """Harmful features and labels: rows to fit on (n, d) and rows to judge by (m, d)."""

    train: torch.Tensor
    train_labels: torch.Tensor
    test: torch.Tensor
    test_labels: torch.Tensor
    n_classes: int

    def accuracy(self, logits: torch.Tensor) -> float:
        """Share of test rows whose largest logit is their label; 0 where a logit is not finite."""
        if not torch.isfinite(logits).all():
            return 0.0
        return (logits.argmax(1) == self.test_labels).double().mean().item()


class Standardizer:
    """PCA-whitening of the span: features are centred and every direction above rounding gets unit variance.

    Args:
        features: training rows (n, d), float64.
        eps: machine epsilon of the precision in which the features were computed.
    """

    def __init__(self, features: torch.Tensor, eps: float) -> None:
        self.mean = features.mean(0)
        _, values, directions = torch.linalg.svd(features - self.mean, full_matrices=False)
        kept = values > max(features.shape) * eps * values[0]
        if not kept.any():
            raise ValueError("All training features are the same: there is nothing to whiten.")
        self.map = directions[kept].mT / values[kept] * features.shape[0] ** 0.5

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        return (features - self.mean) @ self.map


def fit_probe(
    name: str,
    train: torch.Tensor,
    train_labels: torch.Tensor,
    test: torch.Tensor,
    test_labels: torch.Tensor,
    *,
    steps: Sequence[int] = (10, 30, 100, 300),
) -> dict[int, float]:
    """Fits one attacker's linear head from zero and returns its test accuracy after each number of steps.

    Args:
        name: a key of :data:`PROBES`.
        train: features to fit on, (n, d).
        train_labels: their classes, (n,), counted from 0.
        test: features to judge by, (m, d).
        test_labels: their classes, (m,).
        steps: at which the accuracy is taken, ascending. A closed form gives the same number at each.

    Raises:
        ValueError: an unknown attacker, no rows, or numbers that do not fit together.
    """
    if name not in PROBES:
        raise ValueError(f"Unknown attacker {name!r}. Known ones: {', '.join(PROBES)}.")
    if len(train) != len(train_labels) or len(test) != len(test_labels) or not len(train) or not len(test):
        raise ValueError(
            f"Features and labels must have equal, positive lengths, got {len(train)}/{len(train_labels)} for training "
            f"and {len(test)}/{len(test_labels)} for the test."
        )
    n_classes = int(torch.cat([train_labels, test_labels]).max()) + 1
    return PROBES[name](Task(train, train_labels, test, test_labels, n_classes), tuple(steps))


def gradient_descent(task: Task, steps: tuple[int, ...]) -> dict[int, float]:
    """Softmax regression by gradient descent with the constant step 1/L (paper, section 2)."""
    return _gradient_descent(task, task.train.double(), task.test.double(), steps)


def whitened_gradient_descent(task: Task, steps: tuple[int, ...]) -> dict[int, float]:
    """The same after PCA-whitening, which makes κ = 1: what a knowing attacker does first."""
    whiten = Standardizer(task.train.double(), torch.finfo(task.train.dtype).eps)
    return _gradient_descent(task, whiten(task.train.double()), whiten(task.test.double()), steps)


def adam(task: Task, steps: tuple[int, ...]) -> dict[int, float]:
    """Softmax regression by full-batch Adam on standardised features; at each step the best of three rates."""
    spread, mean = task.train.std(0), task.train.mean(0)
    scale = torch.where(spread > 1e-12 * spread.max(), spread, torch.ones_like(spread))
    raw = (task.train.float(), task.test.float())
    standardised = tuple(((rows - mean) / scale).float() for rows in (task.train, task.test))
    best = dict.fromkeys(steps, 0.0)
    for train, test in (raw, standardised):
        # The rates side by side: one product a step serves all three fits.
        weights = [torch.zeros(train.shape[1], task.n_classes, requires_grad=True) for _ in ADAM_RATES]
        biases = [torch.zeros(task.n_classes, requires_grad=True) for _ in ADAM_RATES]
        groups = [{"params": pair, "lr": rate} for *pair, rate in zip(weights, biases, ADAM_RATES, strict=True)]
        optimizer = torch.optim.Adam(groups)
        for step in range(1, max(steps) + 1):
            optimizer.zero_grad()
            logits = (train @ torch.cat(weights, dim=1) + torch.cat(biases)).split(task.n_classes, dim=1)
            sum(F.cross_entropy(one, task.train_labels) for one in logits).backward()
            optimizer.step()
            if step in best:
                with torch.no_grad():
                    found = [task.accuracy(test @ w + b) for w, b in zip(weights, biases, strict=True)]
                best[step] = max(best[step], *found)
    return best


def ridge(task: Task, steps: tuple[int, ...]) -> dict[int, float]:
    """Least squares on one-hot labels in closed form, float64, with the best of five penalties."""
    mean = task.train.double().mean(0)
    left, values, directions = torch.linalg.svd(task.train.double() - mean, full_matrices=False)
    targets = F.one_hot(task.train_labels, task.n_classes).double()
    centre = targets.mean(0)
    best = 0.0
    for penalty in RIDGE_PENALTIES:
        shrink = values / (values.square() + penalty * values[0].square().clamp_min(1e-300))
        weight = directions.mT @ (shrink[:, None] * (left.mT @ (targets - centre)))
        best = max(best, task.accuracy((task.test.double() - mean) @ weight + centre))
    return dict.fromkeys(steps, best)


def _gradient_descent(task: Task, train: torch.Tensor, test: torch.Tensor, steps: tuple[int, ...]) -> dict[int, float]:
    train = torch.cat([train, torch.ones_like(train[:, :1])], dim=1)
    test = torch.cat([test, torch.ones_like(test[:, :1])], dim=1)
    # The softmax Hessian is at most half the features' Gram: L = s_1²/(2n).
    lipschitz = torch.linalg.matrix_norm(train, 2).square() / (2 * len(train))
    targets = F.one_hot(task.train_labels, task.n_classes).double()
    weight = torch.zeros(train.shape[1], task.n_classes, dtype=train.dtype)
    result = {}
    for step in range(1, max(steps) + 1):
        residual = (train @ weight).softmax(1) - targets
        weight -= train.mT @ residual / (len(train) * lipschitz)
        if step in steps:
            result[step] = task.accuracy(test @ weight)
    return result


PROBES: dict[str, Callable[[Task, tuple[int, ...]], dict[int, float]]] = {
    "gradient descent": gradient_descent,
    "Adam": adam,
    "PCA-whitened gradient descent": whitened_gradient_descent,
    "ridge regression": ridge,
}
