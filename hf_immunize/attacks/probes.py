"""Attackers that leave the features as they are: heads of every usual kind on cached features.

Every first-order attacker divides the features by one number, their root mean square, so that its grid of rates means
the same on every model. That changes no condition number.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from hf_immunize.attacks.attacker import AttackTask, Fit, Fits, attacker
from hf_immunize.attacks.coordinates import (
    Coordinates,
    centred_svd,
    one_hot,
    remembered,
    standardised,
    unscaled,
    whitened,
)
from hf_immunize.attacks.softmax_heads import Prepare, linear, softmax_descent, with_bias
from hf_immunize.attacks.two_layers import two_layer_descent

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
KEEP, KEEP_RESCALED = (100, 4), (100, 2)
LBFGS_PULL, LBFGS_FITTED, LBFGS_TOLERANCE, LBFGS_MOST = 1e-9, 1e-4, 1e-6, 300
#: Points of its line searches that L-BFGS remembers: the next step starts at one of them.
KNOWN = 5
MLP_RATES = (1e-3, 3e-3, 1e-2)


@attacker("gradient descent, 1/L", short="gd")
def gradient_descent(task: AttackTask) -> Fits:
    """Softmax regression by gradient descent with the constant step 1/L (arXiv 2505.23760, section 2)."""
    yield from _descend(task, unscaled(task).turned, (1.0,))


@attacker("gradient descent, best rate", short="gd-best")
def tuned_gradient_descent(task: AttackTask) -> Fits:
    """The same with the best of 13 constant steps from 0.1/L to 1e5/L; batches of 512 where there are more rows."""
    yield from _descend(task, unscaled(task).turned, STEP_MULTIPLES, batch_size=MOST_ROWS, keep=KEEP)


@attacker("momentum SGD, best rate", short="momentum")
def momentum(task: AttackTask) -> Fits:
    """Softmax regression by SGD with Nesterov momentum 0.9, batches of 256, the best of 13 rates."""
    yield from _descend(task, unscaled(task).turned, STEP_MULTIPLES, rule="nesterov", batch_size=BATCH, keep=KEEP)


@attacker("Adam, best rate", short="adam")
def adam(task: AttackTask) -> Fits:
    """Softmax regression by Adam, batches of 256, the best of 13 rates from 1e-4 to 1."""
    yield from _fits(task, unscaled(task), ADAM_RATES, "rate", rule="adam", batch_size=BATCH, keep=KEEP)


@attacker("L-BFGS", short="lbfgs")
def lbfgs(task: AttackTask) -> Fits:
    """Softmax regression by L-BFGS to convergence or 300 steps, on features as they are (float64) and whitened."""
    # A direction a millionth as strong as the first counts in float64 alone; white ones are of one size.
    coordinates = [("as they are", unscaled(task, torch.float64).turned)]
    if white := whitened(task):
        coordinates.append(("whitened", white[0]))
    for name, own in coordinates:
        for step, head in _lbfgs(with_bias(own.train), task.labels, task.n_classes, task.checkpoints):
            yield Fit(name, step, *linear(own.held, head[None]))


def _lbfgs(
    rows: torch.Tensor, labels: torch.Tensor, n_classes: int, checkpoints: tuple[int, ...]
) -> Iterator[tuple[int, torch.Tensor]]:
    """Heads (d, classes) at the checkpoints and at convergence."""
    targets, columns = F.one_hot(labels, n_classes).to(rows).mT, rows.mT.contiguous()
    head = torch.zeros(n_classes, rows.shape[1], dtype=rows.dtype, requires_grad=True)
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
    #: Heads of this line search and the last, with their losses and gradients: a step starts where the last one ended.
    known: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    @torch.no_grad()
    def closure() -> torch.Tensor:
        for one, loss, gradient in known:
            if torch.equal(one, head):
                head.grad = gradient.clone()
                return loss
        # By hand, in the layouts that a thin product is quick in.
        log_shares = (head @ rows.mT).log_softmax(0)
        # A pull towards zero too weak to matter, so that separable classes have a minimum.
        gradient = (log_shares.exp() - targets) @ columns.mT / len(rows) + 2 * LBFGS_PULL * head
        loss = -(log_shares * targets).sum(dtype=torch.float64) / len(rows) + LBFGS_PULL * head.double().square().sum()
        known.append((head.clone(), loss, gradient))
        head.grad = gradient.clone()
        return loss

    loss = math.inf
    last = min(checkpoints[-1], LBFGS_MOST)
    for step in range(1, last + 1):
        del known[:-KNOWN]
        # The loss that a step returns is the one before it.
        loss, before = float(optimizer.step(closure)), loss
        done = step == last or loss < LBFGS_FITTED or before - loss < LBFGS_TOLERANCE * loss
        if step in checkpoints or done:
            yield step, head.detach().mT.clone()
        if done:
            return


@attacker("standardised, gradient descent", short="standardised")
def standardised_descent(task: AttackTask) -> Fits:
    """Every feature to mean 0 and variance 1, then gradient descent with the best of four steps."""
    yield from _descend(task, standardised(task).turned, RESCALED_MULTIPLES, keep=KEEP_RESCALED)


@attacker("PCA-whitened, gradient descent", short="whitened")
def whitened_descent(task: AttackTask) -> Fits:
    """PCA-whitening, which makes κ = 1, then gradient descent: the best of four steps and up to five truncations."""
    white = whitened(task)
    if white is None:
        yield _same_for_all(task)
        return
    coordinates, values = white
    widths = sorted({int((values > floor * values[0]).sum()) for floor in WHITENING_FLOORS})
    yield from _descend(task, coordinates, RESCALED_MULTIPLES, widths=widths, keep=KEEP_RESCALED)


@attacker("ridge regression", short="ridge")
def ridge(task: AttackTask) -> Fits:
    """Least squares on one-hot labels in closed form, float64, with the best of 20 penalties."""
    mean, (values, directions, projections) = centred_svd(task)
    squares = values.square()
    penalties = squares.new_tensor(RIDGE_PENALTIES)[:, None] * squares.mean().clamp_min(1e-300)
    shrunk = (values / (squares + penalties))[:, :, None] * projections
    heads = (directions.mT @ shrunk.transpose(0, 1).flatten(1)).unflatten(1, shrunk.shape[::2]).transpose(0, 1)
    logits = linear(lambda held: held - mean, heads, one_hot(task).mean(0))
    for penalty, scores in zip(RIDGE_PENALTIES, logits, strict=True):
        yield Fit(f"penalty {penalty:.0e}", 0, scores)


@attacker("k nearest neighbours", short="knn")
def nearest_neighbours(task: AttackTask) -> Fits:
    """Votes of the nearest training rows, by Euclidean and by cosine distance, with the best k of six."""
    votes = one_hot(task)
    mean = task.rows.mean(0, dtype=torch.float64)

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
    own = standardised(task)
    for step, heads in two_layer_descent(
        own.train, task.labels, task.n_classes, MLP_RATES, task.checkpoints, seed=task.seed
    ):
        logits = remembered(functools.partial(_of_all, own, heads))
        for one, rate in enumerate(MLP_RATES):
            yield Fit(f"rate {rate:.0e}", step, functools.partial(_one_of, logits, one))


def _of_all(own: Coordinates, heads: Prepare, held: torch.Tensor) -> torch.Tensor:
    return heads(own.held(held)[:, :-1])


def _one_of(logits: Prepare, one: int, held: torch.Tensor) -> torch.Tensor:
    return logits(held)[one]


def _descend(task: AttackTask, own: Coordinates, multiples: tuple[float, ...], **options: Any) -> Fits:
    yield from _fits(task, own, tuple(one / own.curvature for one in multiples), "step", **options)


def _fits(
    task: AttackTask, own: Coordinates, rates: Sequence[float], unit: str, widths: Sequence[int] = (), **options: Any
) -> Fits:
    """Heads of every rate; where there are widths, of every rate at every width."""
    names = [f"{unit} {rate:.2e}" for rate in rates]
    if widths:
        names = [f"{width} directions, {name}" for width in widths for name in names]
        options["widths"] = [width for width in widths for _ in rates]
        rates = [*rates] * len(widths)
    found = softmax_descent(own.train, task.labels, task.n_classes, rates, task.checkpoints, seed=task.seed, **options)
    for step, running, heads in found:
        for one, scores in zip(running, linear(own.held, heads), strict=True):
            yield Fit(names[one], step, scores)


def _same_for_all(task: AttackTask) -> Fit:
    """The most frequent class for every row: all that features which are all the same can tell."""
    counts = torch.bincount(task.labels, minlength=task.n_classes).double()
    return Fit("", 0, lambda held: counts.expand(len(held), -1))
