"""Signs of a defence that hides gradients rather than holds: what looks like protection, and a repair undoes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from hf_immunize.attacks.attacker import Attacker
from hf_immunize.attacks.finetune import HarmfulClassifier
from hf_immunize.attacks.judging import Budgets
from hf_immunize.attacks.layers import passed_through
from hf_immunize.attacks.resampling import Resampled, interval
from hf_immunize.attacks.whole import far_rates
from hf_immunize.models.head import features_and_logits
from hf_immunize.models.trainable import select_trainable

__all__ = ["FLAGS", "flags_of_model", "flags_of_rates"]

#: The kinds of flags.
FLAGS = ("first step", "dead units", "gradients", "scale", "rates")
#: A loss this many times as large after one step; a gradient norm and the size of a layer's weights, this many times
#: θ0's; this share of a layer's units more than in θ0; this accuracy more than by all other fine-tuning.
DIVERGED, GRADIENT, SCALE, DEAD, RATES = 10.0, 100.0, 100.0, 0.25, 0.05
#: The usual first step.
RATE, CLIP = 0.01, 1.0


@dataclass(frozen=True)
class _Look:
    """One step of fine-tuning all weights.

    Attributes:
        growth: of the loss, as a factor; not finite where the loss or a gradient is not.
        gradient: norm over the backbone's weights.
        dead: layer → share of the channels that it reads which are constant.
        sizes: root mean square of each weight of two dimensions or more.
    """

    growth: float
    gradient: float
    dead: dict[str, float]
    sizes: dict[str, float]


def flags_of_model(
    model: nn.Module, base: nn.Module, batch: Mapping[str, torch.Tensor], n_classes: int
) -> dict[str, str]:
    """What in a model, beside θ0, would stop plain fine-tuning at its first step.

    Args:
        model: a copy of the immunized one in float32; it is changed.
        base: a copy of θ0, likewise.
        batch: some harmful images with labels.
        n_classes: of the harmful task.

    Returns:
        kind → what was found, in words; empty where nothing was.
    """
    own, other = (_look(one, batch, n_classes) for one in (model, base))
    found: dict[str, str] = {}
    if math.isfinite(other.growth) and not own.growth <= DIVERGED * max(1.0, other.growth):
        told = f"grows {own.growth:.0f} times" if math.isfinite(own.growth) else "or its gradient is not finite"
        found["first step"] = f"the loss {told} at the first step"
    more = {name: share - other.dead.get(name, 0.0) for name, share in own.dead.items()}
    most = max(more, key=more.__getitem__, default=None)
    if most is not None and more[most] > DEAD:
        found["dead units"] = f"{100 * more[most]:.0f} % more than in θ0 of what {most} reads is constant"
    if own.gradient > GRADIENT * other.gradient > 0:
        found["gradients"] = f"the gradient is {own.gradient / other.gradient:,.0f} times θ0's"
    ratios = {name: size / other.sizes[name] for name, size in own.sizes.items() if other.sizes.get(name)}
    extreme = {name: ratio for name, ratio in ratios.items() if ratio > 0 and abs(math.log(ratio)) > math.log(SCALE)}
    if extreme:
        worst = max(extreme, key=lambda name: abs(math.log(extreme[name])))
        found["scale"] = f"{len(extreme)} layers of extreme scale ({worst}: {extreme[worst]:.2g} times θ0's weights)"
    return found


def flags_of_rates(found: Resampled, attackers: Sequence[Attacker], budgets: Budgets) -> dict[str, str]:
    """Whether rates far from the usual suddenly work on the immunized model, and not on θ0."""
    others = [one.name for one in attackers if one.kind == far_rates.kind and one.name != far_rates.name]
    if not others or far_rates.name not in (one.name for one in attackers):
        return {}
    samples, steps = budgets.of(far_rates)

    def ahead(model: str) -> tuple[float, float, bool]:
        far = found.of(far_rates.name, model, samples[-1], steps[-1])
        usual = found.strongest(others, model, samples[-1], steps[-1])
        certain = interval(far.draws - usual.draws)["low"] > 0
        return far.mean, usual.mean, far.mean - usual.mean > RATES and certain

    far, usual, flagged = ahead("immunized")
    if not flagged or ahead("initial")[2]:
        return {}
    return {"rates": f"rates far from the usual suddenly work ({100 * far:.0f} %, all others {100 * usual:.0f} %)"}


def _look(model: nn.Module, batch: Mapping[str, torch.Tensor], n_classes: int) -> _Look:
    select_trainable(model, "all", batch)
    model.eval()
    dead = {name: float(one.constant.double().mean()) for name, one in passed_through(model, [batch]).items()}
    sizes = {
        name: float(value.detach().square().mean().sqrt()) for name, value in model.named_parameters() if value.ndim > 1
    }
    with torch.no_grad():
        width = features_and_logits(model, batch)[0].shape[1]
    torch.manual_seed(0)
    classifier = HarmfulClassifier(model, width, n_classes).to(batch["labels"].device)
    classifier.norm.train()
    optimizer = torch.optim.SGD([one for one in classifier.parameters() if one.requires_grad], lr=RATE)
    loss = F.cross_entropy(classifier(dict(batch)), batch["labels"])
    loss.backward()
    slopes = [one.grad for one in model.parameters() if one.grad is not None]
    gradient = float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(one) for one in slopes])))
    nn.utils.clip_grad_norm_(classifier.parameters(), CLIP)
    optimizer.step()
    with torch.no_grad():
        after = F.cross_entropy(classifier(dict(batch)), batch["labels"])
    growth = float(after / loss.detach()) if math.isfinite(gradient) else math.nan
    return _Look(growth, gradient, dead, sizes)
