"""First-order fits of softmax heads, a whole grid of learning rates as one batched problem.

The heads of all rates stand below one another as rows of one matrix (rates · classes, d + 1), so that a step costs two
matrix products however many rates there are. Rows never mix: a rate that diverges does so alone.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
import torch.nn.functional as F

__all__ = ["Prepare", "curvature", "linear", "softmax_descent", "with_bias"]

#: From rows of a view to what an attacker works on, or to its answer.
Prepare = Callable[[torch.Tensor], torch.Tensor]

BETAS, EPSILON = (0.9, 0.999), 1e-8
#: The smaller side above which the largest singular value is found by iteration, its fewest steps, and what change of
#: the value ends it.
LANCZOS_FROM, LANCZOS_LEAST, LANCZOS_TOLERANCE = 64, 8, 1e-7
#: In units of the precision: what is left of a direction after all earlier ones is rounding below this share of it.
LANCZOS_ROUNDING = 64


def with_bias(rows: torch.Tensor) -> torch.Tensor:
    """The rows (n, d) with a column of ones."""
    return torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1)


def linear(prepare: Prepare, heads: torch.Tensor, bias: torch.Tensor | None = None) -> list[Prepare]:
    """From rows to the logits of each head (k, d, classes): one product for all of them, where k would be thin.

    Args:
        prepare: from rows to what the heads are of; it should know its last answer.
        heads: side by side.
        bias: (classes,), of every head; None where it is in the heads.
    """
    flat = heads.transpose(0, 1).flatten(1)
    last: list[torch.Tensor] = []

    def logits(held: torch.Tensor, head: int) -> torch.Tensor:
        if not last or last[0] is not held:
            last[:] = [held, (prepare(held) @ flat).unflatten(1, heads.shape[::2])]
        return last[1][:, head] if bias is None else last[1][:, head] + bias

    return [functools.partial(logits, head=head) for head in range(len(heads))]


def curvature(rows: torch.Tensor) -> float:
    """L = s_1²/(2n): the softmax Hessian is at most half the rows' Gram, for rows (n, d) with their bias column.

    Where both n and d are large, by Lanczos' method: the largest eigenvalue alone, to a millionth of it.
    """
    n, width = rows.shape
    if min(n, width) <= LANCZOS_FROM:
        smaller = rows @ rows.mT if n <= width else rows.mT @ rows
        return float(torch.linalg.eigvalsh(smaller.double())[-1]) / (2 * n)
    # The mean row is near the first direction of features that are not centred; noise has something of every direction.
    direction = rows.mean(0) + torch.randn(width, generator=torch.Generator().manual_seed(0)).to(rows) * rows.std()
    basis, images, found = rows.new_empty(0, width), rows.new_empty(0, n), 0.0
    for step in range(LANCZOS_FROM):
        whole = torch.linalg.vector_norm(direction)
        for _ in range(2):
            # Twice is enough, for the rounding of the first time.
            direction = direction - (basis @ direction) @ basis
        size = torch.linalg.vector_norm(direction)
        # Where the rows have no further direction, the rest is rounding, along directions that are there already.
        if not size > LANCZOS_ROUNDING * torch.finfo(rows.dtype).eps * whole:
            break
        basis = torch.cat([basis, direction[None] / size])
        images = torch.cat([images, (rows @ basis[-1])[None]])
        found, before = float(torch.linalg.eigvalsh((images @ images.mT).double())[-1]), found
        if step >= LANCZOS_LEAST and found - before <= LANCZOS_TOLERANCE * found:
            break
        direction = images[-1] @ rows
    return found / (2 * n)


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
        keep: ``(step, count)``: after that step only the ``count`` rates with the lowest loss on all rows go on, of
            each width. What a smaller rate reaches later, a larger stable one has passed at an earlier checkpoint.
        seed: of the batches.

    Yields:
        the step, the indices of the rates that still run, and their heads, (rates, d + 1, classes), the bias last.
    """
    # The bias is the first column here, so that the features of each width are the columns next to it.
    x = torch.cat([torch.ones_like(rows[:, :1]), rows], dim=1)
    n, width = x.shape
    running = list(range(len(rates)))
    used = [width] * len(rates) if widths is None else [one + 1 for one in widths]
    targets = F.one_hot(labels, n_classes).to(x).mT.contiguous()
    weights = x.new_zeros(len(running) * n_classes, width)
    moments = [torch.zeros_like(weights) for _ in range({"sgd": 0, "nesterov": 1, "adam": 2}[rule])]
    steps = x.new_tensor(list(rates)).repeat_interleave(n_classes)[:, None]
    gradient, spans = torch.zeros_like(weights), _spans(running, used, n_classes)
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
        residual = _logits(weights, batch, spans).view(len(running), n_classes, -1).softmax(1)
        residual = residual.sub_(wanted).div_(len(batch)).flatten(0, 1)
        for own, columns in spans:
            torch.mm(residual[own], batch[:, :columns], out=gradient[own, :columns])
        if rule == "sgd":
            weights.addcmul_(steps, gradient, value=-1)
        elif rule == "nesterov":
            moments[0].mul_(momentum).add_(gradient)
            weights.addcmul_(steps, gradient, value=-1).addcmul_(steps, moments[0], value=-momentum)
        else:
            moments[0].lerp_(gradient, 1 - BETAS[0])
            moments[1].mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
            size = moments[1].sqrt().div_(math.sqrt(1 - BETAS[1] ** step)).add_(EPSILON)
            weights.addcdiv_(moments[0] * steps, size, value=-1 / (1 - BETAS[0] ** step))
        if step in checkpoints:
            yield step, running, weights.view(len(running), n_classes, width).mT.roll(-1, 1)
        if keep is not None and step == keep[0]:
            logits = _logits(weights, x, spans).view(len(running), n_classes, n)
            losses = F.cross_entropy(logits, labels.expand(len(running), n), reduction="none").mean(1)
            ranked = losses.nan_to_num(nan=math.inf).argsort().tolist()
            best = sorted(
                one
                for columns in set(used)
                for one in [place for place in ranked if used[running[place]] == columns][: keep[1]]
            )
            kept = torch.cat([torch.arange(one * n_classes, (one + 1) * n_classes) for one in best])
            running = [running[one] for one in best]
            weights, steps, moments = weights[kept], steps[kept], [one[kept] for one in moments]
            gradient, spans = torch.zeros_like(weights), _spans(running, used, n_classes)


def _spans(running: Sequence[int], used: Sequence[int], n_classes: int) -> list[tuple[slice, int]]:
    """Rows of neighbouring heads that use equally many columns, and how many these are."""
    spans, start = [], 0
    for columns, group in itertools.groupby(running, key=lambda one: used[one]):
        end = start + n_classes * len(list(group))
        spans.append((slice(start, end), columns))
        start = end
    return spans


def _logits(weights: torch.Tensor, rows: torch.Tensor, spans: Sequence[tuple[slice, int]]) -> torch.Tensor:
    """Logits of all heads, (rates · classes, n)."""
    logits = rows.new_empty(len(weights), len(rows))
    for own, columns in spans:
        torch.mm(weights[own, :columns], rows[:, :columns].mT, out=logits[own])
    return logits
