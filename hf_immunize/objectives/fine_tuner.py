"""Somebody who fine-tunes the model on the harmful task, simulated beside its training."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.nn import functional

from hf_immunize.objectives.objective import StepView

__all__ = ["FineTuner", "Traits", "rows_of"]

#: Rates are drawn log-uniformly between these.
RATES = {"AdamW": (6e-4, 3e-3), "SGD": (0.02, 0.12)}
#: Shares of fine-tuners: AdamW rather than SGD; the last block alone; drawing it anew; adapters in place of the
#: weights; BatchNorm still.
ADAMW, LAST_BLOCK, REDRAWN, ADAPTERS, STILL = 0.6, 0.25, 0.25, 0.15, 0.3
#: Of the adapters (Hu et al., arXiv 2106.09685).
RANK = 8
BATCH = 16
#: Tensors by names of parameters that its state holds.
_KEPT = ("redrawn", "own", "seen", "adapters")


@dataclass(frozen=True)
class Traits:
    """How one of them fine-tunes.

    Attributes:
        optimizer: ``AdamW``, or ``SGD`` with Nesterov momentum 0.9.
        rate: its learning rate.
        last_block: it trains the last block alone.
        redrawn: it draws the last block anew first.
        adapters: it trains low-rank adapters of rank 8 in place of the weights.
        still: BatchNorms that it trains keep the model's statistics; otherwise those of its batches count.
        life: steps until another one is born in its place.
        seed: of what it draws.
    """

    optimizer: str
    rate: float
    last_block: bool
    redrawn: bool
    adapters: bool
    still: bool
    life: int
    seed: int

    @classmethod
    def drawn(cls, seed: int, lives: Sequence[int]) -> Traits:
        """The traits that belong to a seed; the life is one of ``lives``."""
        generator = torch.Generator().manual_seed(seed)
        shares = torch.rand(7, generator=generator, dtype=torch.float64).tolist()
        optimizer = "AdamW" if shares[0] < ADAMW else "SGD"
        low, high = RATES[optimizer]
        last_block = shares[2] < LAST_BLOCK
        return cls(
            optimizer=optimizer,
            rate=low * (high / low) ** shares[1],
            last_block=last_block,
            redrawn=shares[3] < REDRAWN,
            adapters=shares[4] < ADAPTERS and not last_block,
            still=shares[5] < STILL,
            life=int(lives[int(shares[6] * len(lives))]),
            seed=seed,
        )


class FineTuner:
    """Its weights are the model's plus its own change, so that it goes on from wherever the model moves to.

    It fits a head on the features, behind a batch normalisation without weights, as the attackers of
    :mod:`hf_immunize.attacks` do. It holds up to four times the weights that it trains: its own, the model's that it
    last saw, and two moments of AdamW.

    Args:
        traits: how it fine-tunes.
        step: the step at which it is born.
        n_classes: of the harmful task.
    """

    def __init__(self, traits: Traits, step: StepView, n_classes: int) -> None:
        self.traits, self.n_classes, self.age = traits, n_classes, 0
        # Where the last block is all that trains, one drawn anew would tell the model nothing.
        redraws = traits.redrawn and not step.last_block >= set(step.parameters)
        self.redrawn = dict(step.redrawn(traits.seed)) if redraws else {}
        generator = torch.Generator().manual_seed(traits.seed)
        like = step.primary_features

        def noise(rows: int, columns: int) -> torch.Tensor:
            drawn = torch.randn(rows, columns, generator=generator, dtype=torch.float64) / math.sqrt(columns)
            return drawn.to(like.device, like.dtype)

        trained = {name for name in step.parameters if name in step.last_block or not traits.last_block}
        self.own: dict[str, torch.Tensor] = {}
        self.adapters: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        for name in step.parameters:
            one = self.redrawn.get(name, step.parameters[name]).detach()
            if name in trained and not traits.adapters:
                self.own[name] = one.clone(memory_format=step.layout if one.ndim == 4 else torch.preserve_format)
            elif name in trained and one.ndim > 1:
                rank = min(RANK, len(one), one[0].numel())
                self.adapters[name] = (one.new_zeros(len(one), rank), noise(rank, one[0].numel()).to(one))
        self.head = [noise(n_classes, like.shape[1]), like.new_zeros(n_classes)]
        self.seen = {name: step.parameters[name].detach().clone() for name in self.own if name not in self.redrawn}
        leaves = [one.requires_grad_() for one in self._leaves()]
        self.optimizer: torch.optim.Optimizer
        if traits.optimizer == "SGD":
            self.optimizer = torch.optim.SGD(leaves, lr=traits.rate, momentum=0.9, nesterov=True)
        else:
            self.optimizer = torch.optim.AdamW(leaves, lr=traits.rate, weight_decay=0.0)

    def _leaves(self) -> list[torch.Tensor]:
        return [*self.own.values(), *(one for pair in self.adapters.values() for one in pair), *self.head]

    @torch.no_grad()
    def follow(self, step: StepView) -> None:
        """Moves its weights as far as the model has moved since; those that it drew anew stay its own."""
        for name, seen in self.seen.items():
            self.own[name] += step.parameters[name] - seen
            seen.copy_(step.parameters[name])

    def weights(self, step: StepView) -> dict[str, torch.Tensor]:
        """Of the whole network, differentiable in what it trains."""
        found = {name: self.redrawn.get(name, one.detach()) for name, one in step.parameters.items()} | self.own
        for name, (up, down) in self.adapters.items():
            found[name] = found[name] + (up @ down).view_as(found[name])
        return found

    def logits(self, step: StepView, weights: Mapping[str, torch.Tensor], batch: Mapping[str, Any]) -> torch.Tensor:
        """Of its head on a batch, with the given weights in place of the model's: (n, classes)."""
        moving = not (self.traits.still or self.traits.adapters)
        with step.batch_statistics(self.own) if moving else contextlib.nullcontext():
            features = step.features(weights, batch)
        return functional.linear(functional.batch_norm(features, None, None, training=True), *self.head)

    def fine_tune(self, step: StepView, images: Mapping[str, Any], steps: int) -> None:
        """Steps of its optimizer on batches of 16 of these images, each taken once before any is taken again."""
        generator = torch.Generator().manual_seed(step.seed)
        n = len(images["labels"])
        size = min(BATCH, n)
        order: list[torch.Tensor] = []
        leaves = self._leaves()
        for _ in range(steps):
            # Whole batches alone: batch normalisation needs more than one row.
            order = order or [one for one in torch.randperm(n, generator=generator).split(size) if len(one) == size]
            batch = rows_of(images, order.pop())
            loss = functional.cross_entropy(self.logits(step, self.weights(step), batch), batch["labels"])
            for leaf, slope in zip(leaves, torch.autograd.grad(loss, leaves, allow_unused=True), strict=True):
                leaf.grad = slope
            torch.nn.utils.clip_grad_norm_(leaves, 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.age += steps

    def ignorance(self, step: StepView, images: Mapping[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """How far its predictions are from knowing nothing, on images that it was not fitted to.

        Returns:
            KL(uniform ‖ prediction), a mean over images, and its gradient at this fine-tuner's weights by the name of
            each; what it drew anew has none, since nothing that the model does reaches it.
        """
        at = {name: one.detach().requires_grad_() for name, one in self.weights(step).items()}
        value = -functional.log_softmax(self.logits(step, at, images), dim=1).mean() - math.log(self.n_classes)
        reached = {name: one for name, one in at.items() if name not in self.redrawn}
        slopes = torch.autograd.grad(value, list(reached.values()), allow_unused=True)
        return value.detach(), {name: one for name, one in zip(reached, slopes, strict=True) if one is not None}

    def state_dict(self) -> dict[str, Any]:
        """All that it is, as tensors and plain values."""
        tensors: dict[str, dict[str, Any]] = {name: dict(getattr(self, name)) for name in _KEPT}
        kept = {name: {key: _detached(one) for key, one in values.items()} for name, values in tensors.items()}
        head = [one.detach() for one in self.head]
        about = {"traits": asdict(self.traits), "n_classes": self.n_classes, "age": self.age}
        return {**about, **kept, "head": head, "optimizer": self.optimizer.state_dict()}

    @classmethod
    def of_state(cls, state: Mapping[str, Any], step: StepView) -> FineTuner:
        """The one that gave this state."""
        found = cls(Traits(**state["traits"]), step, state["n_classes"])
        found.age = state["age"]
        with torch.no_grad():
            for name in _KEPT:
                for key, one in getattr(found, name).items():
                    _fill(one, state[name][key])
            _fill(found.head, state["head"])
        found.optimizer.load_state_dict(state["optimizer"])
        return found


def rows_of(batch: Mapping[str, Any], rows: torch.Tensor | slice) -> dict[str, Any]:
    """Some rows of model inputs, images in the layout in which they lie in the batch."""
    found = {}
    for name, value in batch.items():
        one = value[rows.to(value.device) if isinstance(rows, torch.Tensor) else rows]
        is_last = one.ndim == 4 and value.is_contiguous(memory_format=torch.channels_last)
        found[name] = one.contiguous(memory_format=torch.channels_last) if is_last else one
    return found


def _detached(one: Any) -> Any:
    return one.detach() if isinstance(one, torch.Tensor) else tuple(part.detach() for part in one)


def _fill(one: Any, values: Any) -> None:
    if isinstance(one, torch.Tensor):
        one.copy_(values)
        return
    for part, value in zip(one, values, strict=True):
        part.copy_(value)
