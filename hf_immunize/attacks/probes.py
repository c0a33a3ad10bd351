"""Attackers that leave the features as they are: heads of every usual kind on cached features.

Every first-order attacker divides the features by one number, their root mean square, so that its grid of rates means
the same on every model. That changes no condition number.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from hf_immunize.attacks.attacker import AttackTask, Fit, Fits, attacker
from hf_immunize.attacks.exact import decompose
from hf_immunize.attacks.softmax_heads import Prepare, biased, curvature, linear, remembered, softmax_descent, with_bias
from hf_immunize.spectra.eigen import rank_floor

#: The task last decomposed, the mean of its rows, and the decomposition: three attackers need it of the same rows.
_LAST: list[Any] = []
#: Multiples of 1/L for gradient descent and momentum; Adam's rates on features of root mean square 1.
STEP_MULTIPLES = tuple(10.0 ** (power / 2) for power in range(-2, 11))
ADAM_RATES = tuple(10.0 ** (power / 3) for power in range(-12, 1))
#: For features that were rescaled first, where κ is small and steps near 1/L are near the best.
RESCALED_MULTIPLES = (1.0, 4.0, 16.0, 64.0)
#: Whitening drops directions below these shares of the strongest one: those just above rounding hold little but noise.
WHITENING_FLOORS = (0.0, 1e-4, 1e-3, 1e-2, 1e-1)
RIDGE_PENALTIES = tuple(10.0**power for power in (*range(-24, -10, 2), *range(-10, 3)))
NEIGHBOURS = (1, 3, 5, 10, 20, 50)
BATCH = 256
#: Rows a step of gradient descent over its grid: all of them up to here, then batches.
MOST_ROWS = 512
#: Of a grid only these many go on after this step: those that fit best so far.
KEEP = (100, 4)
LBFGS_PULL, LBFGS_FITTED, LBFGS_TOLERANCE, LBFGS_MOST = 1e-9, 1e-4, 1e-6, 300
HIDDEN, MLP_RATES, MLP_BATCH = 128, (1e-3, 3e-3, 1e-2), 64


@attacker("gradient descent, 1/L", short="gd")
def gradient_descent(task: AttackTask) -> Fits:
    """Softmax regression by gradient descent with the constant step 1/L (arXiv 2505.23760, section 2)."""
    yield from _descend(task, _unscaled(task.rows), (1.0,))


@attacker("gradient descent, best rate", short="gd-best")
def tuned_gradient_descent(task: AttackTask) -> Fits:
    """The same with the best of 13 constant steps from 0.1/L to 1e5/L; batches of 512 where there are more rows."""
    yield from _descend(task, _unscaled(task.rows), STEP_MULTIPLES, batch_size=MOST_ROWS, keep=KEEP)


@attacker("momentum SGD, best rate", short="momentum")
def momentum(task: AttackTask) -> Fits:
    """Softmax regression by SGD with Nesterov momentum 0.9, batches of 256, the best of 13 rates."""
    yield from _descend(task, _unscaled(task.rows), STEP_MULTIPLES, rule="nesterov", batch_size=BATCH, keep=KEEP)


@attacker("Adam, best rate", short="adam")
def adam(task: AttackTask) -> Fits:
    """Softmax regression by Adam, batches of 256, the best of 13 rates from 1e-4 to 1."""
    prepare = _unscaled(task.rows)
    yield from _fits(task, prepare, ADAM_RATES, "rate", rule="adam", batch_size=BATCH, keep=KEEP)


@attacker("L-BFGS", short="lbfgs")
def lbfgs(task: AttackTask) -> Fits:
    """Softmax regression by L-BFGS in float64 to convergence or 300 steps, on features as they are and whitened."""
    size = _root_mean_square(task.rows) or 1.0

    def scaled(held: torch.Tensor) -> torch.Tensor:
        return held.to(torch.float64, copy=True).div_(size)

    coordinates: list[tuple[str, Prepare]] = [("as they are", scaled)]
    if whitening := _whitening(task):
        coordinates.append(("whitened", whitening[0]))
    for name, prepare in coordinates:
        prepared = biased(prepare)
        for step, head in _lbfgs(prepared(task.rows), task.labels, task.n_classes, task.checkpoints):
            yield Fit(name, step, linear(prepared, head))


def _lbfgs(
    rows: torch.Tensor, labels: torch.Tensor, n_classes: int, checkpoints: tuple[int, ...]
) -> Iterator[tuple[int, torch.Tensor]]:
    """Heads (d, classes) at the checkpoints and at convergence."""
    targets = F.one_hot(labels, n_classes).double().mT
    head = torch.zeros(n_classes, rows.shape[1], dtype=torch.float64, requires_grad=True)
    # One iteration a call; without max_eval its line search would end after one trial.
    optimizer = torch.optim.LBFGS(
        [head],
        max_iter=1,
        max_eval=30,
        history_size=30,
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    @torch.no_grad()
    def closure() -> torch.Tensor:
        # By hand, in the layout that a thin product is quick in.
        log_shares = (head @ rows.mT).log_softmax(0)
        # A pull towards zero too weak to matter, so that separable classes have a minimum.
        head.grad = (log_shares.exp() - targets) @ rows / len(rows) + 2 * LBFGS_PULL * head
        return -(log_shares * targets).sum() / len(rows) + LBFGS_PULL * head.square().sum()

    loss = math.inf
    last = min(checkpoints[-1], LBFGS_MOST)
    for step in range(1, last + 1):
        # The loss that a step returns is the one before it.
        loss, before = float(optimizer.step(closure)), loss
        done = step == last or loss < LBFGS_FITTED or before - loss < LBFGS_TOLERANCE * loss
        if step in checkpoints or done:
            yield step, head.detach().mT.clone()
        if done:
            return


@attacker("standardised, gradient descent", short="standardised")
def standardised(task: AttackTask) -> Fits:
    """Every feature to mean 0 and variance 1, then gradient descent with the best of four steps."""
    yield from _descend(task, _standardised(task.rows), RESCALED_MULTIPLES)


@attacker("PCA-whitened, gradient descent", short="whitened")
def whitened(task: AttackTask) -> Fits:
    """PCA-whitening, which makes κ = 1, then gradient descent: the best of four steps and up to five truncations."""
    whitening = _whitening(task)
    if whitening is None:
        yield _same_for_all(task)
        return
    whiten, values = whitening
    widths = sorted({int((values > floor * values[0]).sum()) for floor in WHITENING_FLOORS})
    yield from _descend(task, lambda held: whiten(held).float(), RESCALED_MULTIPLES, widths=widths)


@attacker("ridge regression", short="ridge")
def ridge(task: AttackTask) -> Fits:
    """Least squares on one-hot labels in closed form, float64, with the best of 20 penalties."""
    mean, (values, directions, projections) = _decomposed(task)
    centre = _targets(task).mean(0)
    centred = remembered(lambda held: held - mean)
    for penalty in RIDGE_PENALTIES:
        shrink = values / (values.square() + penalty * values.square().mean().clamp_min(1e-300))
        head = directions.mT @ (shrink[:, None] * projections)
        yield Fit(f"penalty {penalty:.0e}", 0, linear(centred, head, centre))


@attacker("k nearest neighbours", short="knn")
def nearest_neighbours(task: AttackTask) -> Fits:
    """Votes of the nearest training rows, by Euclidean and by cosine distance, with the best k of six."""
    votes = _targets(task)
    mean = _mean(task.rows)

    def centred(held: torch.Tensor) -> torch.Tensor:
        return held - mean

    def directions(held: torch.Tensor) -> torch.Tensor:
        return F.normalize(centred(held))

    most = min(max(NEIGHBOURS), len(task.rows))
    for name, prepare in (("Euclidean", centred), ("cosine", directions)):
        nearest = _nearest(prepare, prepare(task.rows), most)
        for k in NEIGHBOURS:
            if k <= most:
                yield Fit(f"{name}, k = {k}", 0, _voted(nearest, votes, k))


def _nearest(prepare: Prepare, train: torch.Tensor, most: int) -> Prepare:
    """From rows to the numbers of their nearest training rows, (m, most), the nearest first."""
    half = train.square().sum(1) / 2

    def nearest(held: torch.Tensor) -> torch.Tensor:
        # ‖a − b‖²/2 without ‖a‖²/2, which is the same for all b; a few rows at a time, since the whole matrix would be
        # the largest of the suite.
        parts = held.split(BATCH)
        return torch.cat([(half - prepare(part) @ train.mT).topk(most, largest=False).indices for part in parts])

    return remembered(nearest)


def _voted(nearest: Prepare, votes: torch.Tensor, k: int) -> Prepare:
    """The sum of the votes of the k nearest; nearer rows count a little more, so that ties are broken."""
    weight = torch.linspace(1, 0.99, k, dtype=torch.float64)[:, None]
    return lambda held: (votes[nearest(held)[:, :k]] * weight).sum(1)


@attacker("two-layer head", short="mlp")
def two_layers(task: AttackTask) -> Fits:
    """A head with one hidden layer of 128 ReLUs on standardised features, AdamW, the best of three rates."""
    prepare = remembered(_standardised(task.rows))
    x = prepare(task.rows)
    generator = torch.Generator().manual_seed(task.seed)
    count = len(MLP_RATES)
    # The same start for every rate, side by side: one product a layer serves them all.
    first = torch.randn(x.shape[1], HIDDEN, generator=generator) * math.sqrt(2 / x.shape[1])
    second = torch.randn(HIDDEN, task.n_classes, generator=generator) * math.sqrt(1 / HIDDEN)
    layers: list[torch.Tensor] = [
        nn.Parameter(one)
        for rate in range(count)
        for one in (first.clone(), torch.zeros(HIDDEN), second.clone(), torch.zeros(task.n_classes))
    ]
    groups = [{"params": layers[4 * one : 4 * one + 4], "lr": rate} for one, rate in enumerate(MLP_RATES)]
    optimizer = torch.optim.AdamW(groups, weight_decay=1e-2)

    def logits(batch: torch.Tensor) -> list[torch.Tensor]:
        hidden = batch @ torch.cat(layers[0::4], dim=1) + torch.cat(layers[1::4])
        parts = hidden.relu().split(HIDDEN, dim=1)
        return [part @ layers[4 * one + 2] + layers[4 * one + 3] for one, part in enumerate(parts)]

    order: list[torch.Tensor] = []
    for step in range(1, task.checkpoints[-1] + 1):
        if not order:
            order = list(torch.randperm(len(x), generator=generator).split(MLP_BATCH))
        picked = order.pop()
        optimizer.zero_grad()
        torch.stack([F.cross_entropy(one, task.labels[picked]) for one in logits(x[picked])]).sum().backward()
        optimizer.step()
        if step in task.checkpoints:
            for one, rate in enumerate(MLP_RATES):

                def scores(held: torch.Tensor, one: int = one) -> torch.Tensor:
                    with torch.no_grad():
                        return logits(prepare(held))[one]

                yield Fit(f"rate {rate:.0e}", step, scores)


def _unscaled(rows: torch.Tensor) -> Prepare:
    """Features in units of their root mean square, float32."""
    size = _root_mean_square(rows) or 1.0
    # float32 rows need no copy in float64 here, and half precision no second rounding.
    return lambda held: (held.to(torch.promote_types(held.dtype, torch.float32)) / size).float()


def _root_mean_square(rows: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(rows, dtype=torch.float64)) / rows.numel() ** 0.5


def _standardised(rows: torch.Tensor) -> Prepare:
    """Features of mean 0 and variance 1 on the training rows, float32; constant ones become 0."""
    mean, spread = _mean(rows), rows.double().std(0, correction=0)
    scale = torch.where(spread > 1e-12 * spread.max(), spread, torch.inf)
    return lambda held: (held - mean).div_(scale).float()


def _mean(rows: torch.Tensor) -> torch.Tensor:
    """In float64, so that what is taken away from it becomes float64 too."""
    return rows.mean(0, dtype=torch.float64)


def _targets(task: AttackTask) -> torch.Tensor:
    """One-hot labels, (n, classes), float64."""
    return F.one_hot(task.labels, task.n_classes).double()


def _decomposed(task: AttackTask) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Mean of the rows, and the decomposition of centred rows and targets; once for tasks of the same rows."""
    rows = task.rows
    if not _LAST or _LAST[0]() is not rows or _LAST[1]() is not task.labels or _LAST[2] != task.n_classes:
        mean, targets = _mean(rows), _targets(task)
        found = decompose(rows - mean, targets - targets.mean(0))
        _LAST[:] = [weakref.ref(rows), weakref.ref(task.labels), task.n_classes, mean, found]
    return _LAST[3], _LAST[4]


def _whitening(task: AttackTask) -> tuple[Prepare, torch.Tensor] | None:
    """PCA-whitening of the span in float64: centred, every direction above rounding to unit variance.

    Strongest directions first, with their singular values. None where all rows are the same.
    """
    rows = task.rows
    mean, (values, directions, _) = _decomposed(task)
    kept = values > rank_floor(len(rows), rows.shape[1], rows.dtype) * values[0]
    if not kept.any():
        return None
    onto = directions[kept].mT / values[kept] * len(rows) ** 0.5
    return lambda held: (held - mean) @ onto, values[kept]


def _descend(task: AttackTask, prepare: Prepare, multiples: tuple[float, ...], **options: Any) -> Fits:
    rate = 1 / max(curvature(with_bias(prepare(task.rows))), 1e-30)
    yield from _fits(task, prepare, tuple(rate * one for one in multiples), "step", **options)


def _fits(
    task: AttackTask,
    prepare: Prepare,
    rates: Sequence[float],
    unit: str,
    widths: Sequence[int] = (),
    **options: Any,
) -> Fits:
    """Heads of every rate; where there are widths, of every rate at every width."""
    names = [f"{unit} {rate:.2e}" for rate in rates]
    if widths:
        names = [f"{width} directions, {name}" for width in widths for name in names]
        options["widths"] = [width for width in widths for _ in rates]
        rates = [*rates] * len(widths)
    rows = prepare(task.rows)
    # Once for all fits: a copy for each leaves holes in memory that the small results between them keep open.
    prepared = biased(prepare)
    found = softmax_descent(rows, task.labels, task.n_classes, rates, task.checkpoints, seed=task.seed, **options)
    for step, running, heads in found:
        for one, head in zip(running, heads, strict=True):
            yield Fit(names[one], step, linear(prepared, head))


def _same_for_all(task: AttackTask) -> Fit:
    """The most frequent class for every row: all that features which are all the same can tell."""
    counts = torch.bincount(task.labels, minlength=task.n_classes).double()
    return Fit("", 0, lambda held: counts.expand(len(held), -1))
