"""First-order fits of softmax heads, a whole grid of learning rates as one batched problem.

The heads of all rates stand below one another as rows of one matrix (rates · classes, d + 1), so that a step costs two
matrix products however many rates there are. Rows never mix: a rate that diverges does so alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
import torch.nn.functional as F

__all__ = ["Prepare", "biased", "curvature", "linear", "remembered", "softmax_descent", "with_bias"]

#: From rows of a view to what an attacker works on, or to its answer.
Prepare = Callable[[torch.Tensor], torch.Tensor]

BETAS, EPSILON = (0.9, 0.999), 1e-8


def with_bias(rows: torch.Tensor) -> torch.Tensor:
    """The rows (n, d) with a column of ones."""
    return torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1)


def remembered(prepare: Prepare) -> Prepare:
    """The same function, which knows its last answer: an attacker's fits are all judged on the same rows."""
    last: list[torch.Tensor] = []

    def known(held: torch.Tensor) -> torch.Tensor:
        if not last or last[0] is not held:
            last[:] = [held, prepare(held)]
        return last[1]

    return known


def biased(prepare: Prepare) -> Prepare:
    """The same rows with a column of ones, remembered."""
    return remembered(lambda held: with_bias(prepare(held)))


def linear(prepare: Prepare, head: torch.Tensor, bias: torch.Tensor | None = None) -> Prepare:
    """From rows to the logits of one head."""
    if bias is None:
        return lambda held: prepare(held) @ head
    return lambda held: prepare(held) @ head + bias


def curvature(rows: torch.Tensor) -> float:
    """L = s_1²/(2n): the softmax Hessian is at most half the rows' Gram, for rows (n, d) with their bias column."""
    smaller = rows @ rows.mT if len(rows) <= rows.shape[1] else rows.mT @ rows
    return float(torch.linalg.eigvalsh(smaller.double())[-1]) / (2 * len(rows))


def softmax_descent(
    rows: torch.Tensor,
    labels: torch.Tensor,
    n_classes: int,
    rates: Sequence[float],
    checkpoints: Sequence[int],
    *,
    rule: Literal["sgd", "nesterov", "adam"] = "sgd",
    momentum: float = 0.9,
    batch_size: int | None = None,
    widths: Sequence[int] | None = None,
    keep: tuple[int, int] | None = None,
    seed: int = 0,
) -> Iterator[tuple[int, list[int], torch.Tensor]]:
    """Fits one head a rate from zero, all at once.

    Args:
        rows: (n, d), without the bias column.
        labels: (n,) of 0 … n_classes − 1.
        n_classes: number of classes.
        rates: learning rates.
        checkpoints: steps after which the heads are yielded, ascending.
        rule: gradient descent, Nesterov momentum, or Adam.
        momentum: of the rule ``nesterov``.
        batch_size: rows a step, drawn in epochs by ``seed``; None or at least n: all rows, no draw.
        widths: how many features the head of each rate may use, counted from the first; None: all of them.
        keep: ``(step, count)``: after that step only the ``count`` rates with the lowest loss on all rows go on. What a
            smaller rate reaches later, a larger stable one has passed at an earlier checkpoint.
        seed: of the batches.

    Yields:
        the step, the indices of the rates that still run, and their heads, (rates, d + 1, classes), the bias last.
    """
    x = with_bias(rows)
    n, width = x.shape
    running = list(range(len(rates)))
    targets = F.one_hot(labels, n_classes).to(x).mT.contiguous()
    weights = x.new_zeros(len(running) * n_classes, width)
    moments = [torch.zeros_like(weights) for _ in range({"sgd": 0, "nesterov": 1, "adam": 2}[rule])]
    steps = x.new_tensor(list(rates)).repeat_interleave(n_classes)[:, None]
    if widths is not None:
        used = torch.arange(width - 1) < torch.tensor(list(widths))[:, None]
        # A rate of 0 keeps the weights of the other features where they start, at 0, while the head is finite.
        steps = steps * with_bias(used.to(x)).repeat_interleave(n_classes, dim=0)
    generator = torch.Generator().manual_seed(seed)
    whole = batch_size is None or batch_size >= n
    order: list[torch.Tensor] = []
    for step in range(1, max(checkpoints) + 1):
        batch, wanted = x, targets
        if not whole:
            if not order:
                order = list(torch.randperm(n, generator=generator).split(batch_size))
            picked = order.pop()
            batch, wanted = x[picked], targets[:, picked]
        residual = (weights @ batch.mT).view(len(running), n_classes, len(batch)).softmax(1)
        residual -= wanted
        gradient = residual.view(-1, len(batch)) @ batch
        gradient /= len(batch)
        if rule == "sgd":
            weights -= steps * gradient
        elif rule == "nesterov":
            moments[0].mul_(momentum).add_(gradient)
            weights -= steps * (gradient + momentum * moments[0])
        else:
            moments[0].lerp_(gradient, 1 - BETAS[0])
            moments[1].mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
            size = moments[1].sqrt().div_(math.sqrt(1 - BETAS[1] ** step)).add_(EPSILON)
            weights.addcdiv_(moments[0] * steps, size, value=-1 / (1 - BETAS[0] ** step))
        if step in checkpoints:
            yield step, running, weights.view(len(running), n_classes, width).mT.clone()
        if keep is not None and step == keep[0] and len(running) > keep[1]:
            losses = _losses(x, labels, weights.view(len(running), n_classes, width))
            best = sorted(losses.nan_to_num(nan=math.inf).argsort()[: keep[1]].tolist())
            own = torch.cat([torch.arange(one * n_classes, (one + 1) * n_classes) for one in best])
            running = [running[one] for one in best]
            weights, steps, moments = weights[own], steps[own], [one[own] for one in moments]


def _losses(x: torch.Tensor, labels: torch.Tensor, heads: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each head (rates, classes, d + 1) on all rows."""
    return torch.stack([F.cross_entropy(x @ head.mT, labels) for head in heads])
