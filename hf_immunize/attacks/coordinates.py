"""The coordinates that probes fit in, made once for all attackers of a draw: as they are, standardised, whitened."""

from __future__ import annotations

from functools import cached_property

import torch
import torch.nn.functional as F

from hf_immunize.attacks.attacker import AttackTask
from hf_immunize.attacks.exact import decompose
from hf_immunize.attacks.softmax_heads import Prepare, curvature, with_bias
from hf_immunize.spectra.eigen import rank_floor

__all__ = ["Coordinates", "centred_svd", "one_hot", "remembered", "standardised", "unscaled", "whitened"]


def remembered(prepare: Prepare) -> Prepare:
    """The same function, which knows its last answer: fits are all judged on the same rows."""
    last: list[torch.Tensor] = []

    def known(held: torch.Tensor) -> torch.Tensor:
        if not last or last[0] is not held:
            last[:] = [held, prepare(held)]
        return last[1]

    return known


class Coordinates:
    """Training rows as attackers fit on them, and held-out rows likewise.

    Args:
        rows: the training rows of a task, (n, d).
        prepare: from rows to what is fitted on.

    Attributes:
        train: prepared, (n, k), without a bias.
        held: from held-out rows to the same with a column of ones; it knows its last answer.
    """

    def __init__(self, rows: torch.Tensor, prepare: Prepare) -> None:
        self.train, self._prepare = prepare(rows), prepare
        self.held = remembered(lambda held: with_bias(prepare(held)))

    @cached_property
    def curvature(self) -> float:
        """L of the softmax loss on these rows with their bias."""
        return max(curvature(with_bias(self.train)), 1e-30)

    @cached_property
    def turned(self) -> Coordinates:
        """In the span of the rows, where that has fewer dimensions than the features: for those who see no rotation.

        Gradient descent, momentum and L-BFGS from zero never leave the span, and read nothing but inner products.
        """
        if len(self.train) >= self.train.shape[1]:
            return self
        basis = torch.linalg.qr(self.train.double().mT).Q.to(self.train)
        prepare, rows = self._prepare, self.train
        return Coordinates(rows, lambda held: (held if held is rows else prepare(held)) @ basis)


def unscaled(task: AttackTask, dtype: torch.dtype = torch.float32) -> Coordinates:
    """Features in units of their root mean square, so that a grid of rates means the same on every model."""

    def made() -> Coordinates:
        size = float(torch.linalg.vector_norm(task.rows, dtype=torch.float64)) / task.rows.numel() ** 0.5 or 1.0
        # float32 rows need no copy in float64 here, and half precision no second rounding.
        return Coordinates(task.rows, lambda held: (held.to(torch.promote_types(held.dtype, dtype)) / size).to(dtype))

    return task.once(f"unscaled {dtype}", made)


def standardised(task: AttackTask) -> Coordinates:
    """Features of mean 0 and variance 1 on the training rows, float32; constant ones become 0."""

    def made() -> Coordinates:
        mean, spread = task.rows.mean(0, dtype=torch.float64), task.rows.double().std(0, correction=0)
        scale = torch.where(spread > 1e-12 * spread.max(), spread, torch.inf)
        return Coordinates(task.rows, lambda held: (held - mean).div_(scale).float())

    return task.once("standardised", made)


def one_hot(task: AttackTask) -> torch.Tensor:
    """One-hot labels, (n, classes), float64."""
    return F.one_hot(task.labels, task.n_classes).double()


def centred_svd(task: AttackTask) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Mean of the rows in float64, and the decomposition of centred rows and one-hot labels."""

    def made() -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        mean, targets = task.rows.mean(0, dtype=torch.float64), one_hot(task)
        return mean, decompose(task.rows - mean, targets - targets.mean(0))

    return task.once("centred SVD", made)


def whitened(task: AttackTask) -> tuple[Coordinates, torch.Tensor] | None:
    """PCA-whitening of the span, worked out in float64: centred, every direction above rounding to unit variance.

    Strongest directions first, with their singular values; as float32, which holds what has one size. None where all
    rows are the same.
    """

    def made() -> tuple[Coordinates, torch.Tensor] | None:
        rows = task.rows
        mean, (values, directions, _) = centred_svd(task)
        kept = values > rank_floor(len(rows), rows.shape[1], rows.dtype) * values[0]
        if not kept.any():
            return None
        onto = directions[kept].mT / values[kept] * len(rows) ** 0.5
        return Coordinates(rows, lambda held: ((held - mean) @ onto).float()), values[kept]

    return task.once("whitened", made)
