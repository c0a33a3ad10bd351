"""Heads with one hidden layer, one for each learning rate, trained side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["two_layer_descent"]

HIDDEN, BATCH, WEIGHT_DECAY = 128, 64, 1e-2


@torch.no_grad()
def two_layer_descent(
    rows: torch.Tensor,
    labels: torch.Tensor,
    n_classes: int,
    rates: Sequence[float],
    checkpoints: Sequence[int],
    *,
    seed: int = 0,
) -> Iterator[tuple[int, Callable[[torch.Tensor], torch.Tensor]]]:
    """Fits a two-layer softmax head a rate by AdamW, all from the same start on the same batches.

    Args:
        rows: (n, d).
        labels: (n,) of 0 … n_classes − 1.
        n_classes: number of classes.
        rates: learning rates.
        checkpoints: steps after which the heads are yielded, ascending.
        seed: of the start and of the batches of 64, which are drawn in epochs.

    Yields:
        the step, and a function from rows (m, d) to the logits of all heads, (rates, m, classes), as they are now.
    """
    n, d = rows.shape
    count = len(rates)
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(d, HIDDEN, generator=generator) * math.sqrt(2 / d)
    second = torch.randn(HIDDEN, n_classes, generator=generator) * math.sqrt(1 / HIDDEN)
    # The first layers of all rates are one matrix, since they read the same rows; each rate trains its own part of it.
    layers = [first.mT.repeat(count, 1), torch.zeros(count * HIDDEN), second.repeat(count, 1, 1)]
    layers.append(torch.zeros(count, 1, n_classes))
    gradients = [torch.zeros_like(one) for one in layers]
    groups = []
    for rate, own, slopes in zip(rates, *(_by_rate(one, count) for one in (layers, gradients)), strict=True):
        parameters = [nn.Parameter(one) for one in own]
        for parameter, gradient in zip(parameters, slopes, strict=True):
            parameter.grad = gradient
        groups.append({"params": parameters, "lr": rate})
    optimizer = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY, fused=True)
    targets = F.one_hot(labels, n_classes).to(rows)

    def hidden(batch: torch.Tensor) -> torch.Tensor:
        return torch.addmm(layers[1], batch, layers[0].mT).relu_()

    def apart(units: torch.Tensor) -> torch.Tensor:
        return units.unflatten(1, (count, HIDDEN)).transpose(0, 1)

    def logits(batch: torch.Tensor) -> torch.Tensor:
        return apart(hidden(batch)) @ layers[2] + layers[3]

    order: list[torch.Tensor] = []
    for step in range(1, max(checkpoints) + 1):
        if not order:
            order = list(torch.randperm(n, generator=generator).split(BATCH))
        picked = order.pop()
        batch = rows[picked]
        units = hidden(batch)
        residual = ((apart(units) @ layers[2] + layers[3]).softmax(2) - targets[picked]) / len(batch)
        torch.bmm(apart(units).mT, residual, out=gradients[2])
        torch.sum(residual, 1, keepdim=True, out=gradients[3])
        behind = (residual @ layers[2].mT).transpose(0, 1).flatten(1).mul_(units > 0)
        torch.mm(behind.mT, batch, out=gradients[0])
        torch.sum(behind, 0, out=gradients[1])
        optimizer.step()
        if step in checkpoints:
            yield step, logits


def _by_rate(tensors: Sequence[torch.Tensor], count: int) -> list[list[torch.Tensor]]:
    """For each rate its own part of each tensor, in the same memory."""
    return [list(one) for one in zip(*(tensor.chunk(count) for tensor in tensors), strict=True)]
