"""Attackers that first undo what may stand in the way of fine-tuning all weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from hf_immunize.attacks.attacker import AttackTask, Fits, attacker
from hf_immunize.attacks.finetune import fine_tune, fresh, sample_of
from hf_immunize.attacks.layers import LAYERS, dead_inputs, fold_norms, passed_through
from hf_immunize.attacks.whole import SURVIVORS_WHOLE, WHOLE_GRID
from hf_immunize.models.copies import copied
from hf_immunize.models.head import find_head
from hf_immunize.models.random_weights import estimate_statistics, random_weights
from hf_immunize.models.trainable import select_trainable

__all__ = ["PUBLIC_SHARES", "RANDOM_SHARES"]

#: Images on which a model is looked at.
IMAGES = 64
#: Rounds in which rows and columns of a layer get one size in turn.
ROUNDS = 3
#: Share of random weights in shrink and perturb; of the way towards the public backbone.
RANDOM_SHARES, PUBLIC_SHARES = (0.2, 0.5), (0.3, 0.6)


@attacker("rescaled layers", short="rescaled", view="images", thorough=True)
def rescaled(task: AttackTask) -> Fits:
    """BatchNorm folded, each layer trained in units of its own scale: no rescaling is left (arXiv 2602.18868)."""
    model, batch = _folded(task)
    passed, head = passed_through(model, [batch]), find_head(model, batch)
    for name, module in list(model.named_modules()):
        scaled = isinstance(module, (*LAYERS, nn.LayerNorm, nn.GroupNorm)) and module.weight is not None
        # The model's own head is not trained, and has to be found again.
        if not scaled or name in head.names:
            continue
        parametrize.register_parametrization(module, "weight", _InUnitsOf(_scale(module.weight)))
        if module.bias is not None:
            # Activations after a LayerNorm have the size of its weights.
            size = passed[name].size if name in passed else float(module.weight.detach().square().mean().sqrt())
            parametrize.register_parametrization(module, "bias", _InUnitsOf(torch.tensor(size or 1.0)))
    yield from fine_tune(task, model, WHOLE_GRID, SURVIVORS_WHOLE)


@attacker("dead units drawn anew", short="dead-units", view="images", thorough=True)
def dead_units(task: AttackTask) -> Fits:
    """Units that are constant on the images get new weights in, none out (arXiv 2302.12902), then all weights train."""
    model, batch = _folded(task)
    torch.manual_seed(task.seed)
    done: set[tuple[str, str]] = set()
    while found := [one for one in dead_inputs(model, passed_through(model, [batch])) if one[:2] not in done]:
        maker, reader, dead = found[0]
        done.add((maker, reader))
        _draw_anew(model.get_submodule(maker), model.get_submodule(reader), dead)
    yield from fine_tune(task, model, WHOLE_GRID, SURVIVORS_WHOLE)


@attacker("shrink and perturb", short="shrink-perturb", view="images", thorough=True)
def shrink_and_perturb(task: AttackTask) -> Fits:
    """All weights shrunk, a share of random ones added (Ash & Adams, arXiv 1910.08475), then all of them trained."""
    model = fresh(task)
    random = dict(random_weights(model, seed=task.seed).named_parameters())
    starts = {f"{share:g} random": _towards(task, model, random, share) for share in RANDOM_SHARES}
    yield from fine_tune(task, starts, WHOLE_GRID, SURVIVORS_WHOLE)


@attacker("towards the public backbone", short="towards-public", view="images", needs_public=True, thorough=True)
def towards_public(task: AttackTask) -> Fits:
    """All weights moved a part of the way to the public backbone's, then trained; without one, from where they are."""
    model = fresh(task)
    own = {name: one.shape for name, one in model.named_parameters()}
    public = {} if task.public is None else dict(task.public().to(next(model.parameters())).named_parameters())
    # The heads differ as a rule; of another architecture nothing is left.
    public = {name: one for name, one in public.items() if one.shape == own.get(name)}
    if public:
        starts = {f"{share:g} of the way": _towards(task, model, public, share) for share in PUBLIC_SHARES}
    else:
        select_trainable(model, "all", sample_of(task, model))
        starts = {"": model}
    yield from fine_tune(task, starts, WHOLE_GRID, SURVIVORS_WHOLE)


class _InUnitsOf(nn.Module):
    """A parameter as a multiple of a constant, so that a step of one size means the same at every scale."""

    scale: torch.Tensor

    def __init__(self, scale: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return value * self.scale

    def right_inverse(self, value: torch.Tensor) -> torch.Tensor:
        return value / self.scale


@torch.no_grad()
def _scale(weight: torch.Tensor) -> torch.Tensor:
    """Of every entry: the size of its row and its column, so that what is left has the usual size of its fan-in.

    Rows (outputs) and columns (inputs) in turn, since a unit may be made large in the one layer and small in the next.
    What is zero does not count; a row or a column of zeros has size 1.
    """
    scale, counted = torch.ones_like(weight), weight != 0
    for _ in range(ROUNDS):
        for kept in range(min(2, weight.ndim)) if weight.ndim > 1 else (None,):
            others = [axis for axis in range(weight.ndim) if axis != kept]
            squares, count = ((weight / scale) ** 2).sum(others, keepdim=True), counted.sum(others, keepdim=True)
            scale = scale * torch.where(count > 0, (squares / count).sqrt(), 1.0)
    # Of these sizes are the weights that a layer is given when it is drawn.
    return scale * (3 * weight[0].numel()) ** 0.5


def _folded(task: AttackTask) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """The model with all weights to train and BatchNorm folded, and images to look at it with."""
    model = fresh(task)
    batch = sample_of(task, model, IMAGES)
    select_trainable(model, "all", batch)
    fold_norms(model, batch)
    return model, batch


@torch.no_grad()
def _draw_anew(maker: Any, reader: Any, dead: torch.Tensor) -> None:
    # On the CPU, where a seed gives the same weights for whatever device.
    drawn = copied(maker).cpu()
    drawn.reset_parameters()
    maker.weight[dead] = drawn.weight.to(maker.weight)[dead]
    if maker.bias is not None:
        maker.bias[dead] = 0.0
    # Where all were dead, what the reader makes of them is the reader's own to learn from.
    if reader.weight.shape[1] == len(dead) and not dead.all():
        reader.weight[:, dead] = 0.0


@torch.no_grad()
def _towards(task: AttackTask, model: nn.Module, others: Mapping[str, torch.Tensor], share: float) -> nn.Module:
    """A copy of the model whose weights went this share of the way to others of the same name."""
    moved = copied(model)
    for name, value in moved.named_parameters():
        if name in others:
            value.lerp_(others[name], share)
    batch = sample_of(task, moved, IMAGES)
    select_trainable(moved, "all", batch)
    norms = [one for one in moved.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    estimate_statistics(moved, [one for one in norms if one.track_running_stats], [batch])
    return moved
