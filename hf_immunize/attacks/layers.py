"""What passes through the layers of a model on some images, and BatchNorm folded into the layer before it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hf_immunize.models.forward import trace
from hf_immunize.models.head import features_and_logits

__all__ = ["LAYERS", "Passed", "dead_inputs", "fold_norms", "passed_through"]

#: Layers whose channels are looked at.
LAYERS = (nn.Linear, nn.Conv2d)
#: A channel is constant whose values differ by less than this share of the largest of its layer.
CONSTANT = 1e-6


@dataclass
class Passed:
    """What a layer was given and what it made of it, over all images and positions.

    Attributes:
        low, high: least and largest value of each input channel, (channels,).
        size: root mean square of the output.
    """

    low: torch.Tensor
    high: torch.Tensor
    size: float

    @property
    def constant(self) -> torch.Tensor:
        """Which input channels are constant, (channels,) of bool."""
        largest = torch.maximum(self.low.abs(), self.high.abs()).max()
        return self.high - self.low <= CONSTANT * largest


@torch.no_grad()
def passed_through(model: nn.Module, batches: Iterable[Mapping[str, torch.Tensor]]) -> dict[str, Passed]:
    """Names of the linear layers and convolutions → what passed through them, in the order in which they ran."""
    found: dict[str, Passed] = {}

    def hook(name: str) -> Any:
        def record(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
            given = args[0].movedim(1, -1) if isinstance(module, nn.Conv2d) else args[0]
            rows = given.flatten(0, -2)
            one = Passed(rows.amin(0), rows.amax(0), float(output.square().mean().sqrt()))
            if (before := found.get(name)) is not None:
                one = Passed(
                    torch.minimum(before.low, one.low), torch.maximum(before.high, one.high), max(before.size, one.size)
                )
            found[name] = one

        return record

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if isinstance(module, LAYERS):
                hooks.enter_context(module.register_forward_hook(hook(name)))
        for batch in batches:
            features_and_logits(model, batch)
    return found


def dead_inputs(model: nn.Module, passed: Mapping[str, Passed]) -> list[tuple[str, str, torch.Tensor]]:
    """Units that give nothing: layer that makes them, layer that reads them, which channels (channels,) are constant.

    The maker is the last layer before with as many outputs. Where all that it reads is constant too, the reason lies
    further up, and it is not named.
    """
    names = list(passed)
    found = []
    for position, reader in enumerate(names):
        dead = passed[reader].constant
        width = len(dead)
        makers = [one for one in names[:position] if _outputs(model.get_submodule(one)) == width]
        if dead.any() and makers and not passed[makers[-1]].constant.all():
            found.append((makers[-1], reader, dead))
    return found


def _outputs(layer: Any) -> int:
    return layer.weight.shape[0]


@torch.no_grad()
def fold_norms(model: nn.Module, inputs: torch.Tensor | Mapping[str, Any]) -> list[str]:
    """Folds each BatchNorm that reads a layer's output into that layer; what is left of it does nothing and is frozen.

    The function in evaluation mode stays as it is.

    Args:
        model: changed in place.
        inputs: a batch, for finding out which layer a BatchNorm reads.

    Returns:
        names of the folded BatchNorms.
    """
    calls, _, _ = trace(model, inputs)
    folded = []
    for position, call in enumerate(calls):
        norm: Any = call.module
        if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or norm.running_var is None:
            continue
        layer = next((one.module for one in calls[:position] if one.output is call.input), None)
        once = sum(one.module in (layer, norm) for one in calls) == 2
        if not isinstance(layer, LAYERS) or not once:
            continue
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None
        assert variance is not None
        scale = torch.rsqrt(variance + norm.eps)
        shift = -mean * scale
        if norm.affine:
            scale, shift = scale * norm.weight, shift * norm.weight + norm.bias
            norm.weight.fill_(1.0).requires_grad_(False)
            norm.bias.zero_().requires_grad_(False)
        mean.zero_()
        variance.fill_(1 - norm.eps)
        if layer.bias is not None:
            shift = shift + layer.bias * scale
        layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.ndim - 1)))
        layer.bias = nn.Parameter(shift)
        folded.append(call.name)
    return folded
