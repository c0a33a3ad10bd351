"""A model of the same architecture with random weights: what an attacker reaches without what was released."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from hf_immunize.data.random_numbers import undisturbed_random_numbers
from hf_immunize.models.copies import copied
from hf_immunize.models.head import features_and_logits

__all__ = ["draw_anew", "estimate_statistics", "random_weights"]


def draw_anew(modules: Iterable[nn.Module], seed: int, *, shuffle: bool = False) -> None:
    """Weights of modules drawn anew, in place and one module after the other, by each one's own ``reset_parameters``.

    They are drawn on the CPU, so that a seed gives the same ones wherever the modules are.

    Args:
        modules: what they hold within is left as it is.
        seed: of the weights; the caller's random numbers go on as if nothing was drawn.
        shuffle: give the parameters of modules without such a rule another order, which keeps their scale; otherwise
            they stay.
    """
    with undisturbed_random_numbers(seed), torch.no_grad():
        for module in modules:
            if hasattr(module, "reset_parameters"):
                _reset(module)
            elif shuffle:
                for parameter in module.parameters(recurse=False):
                    order = torch.randperm(parameter.numel()).to(parameter.device)
                    parameter.copy_(parameter.flatten()[order].view_as(parameter))


def _reset(module: Any) -> None:
    own = [*module.parameters(), *module.buffers()]
    if all(one.device.type == "cpu" for one in own):
        module.reset_parameters()
        return
    twin: Any = copied(module).cpu()
    twin.reset_parameters()
    for one, drawn in zip(own, [*twin.parameters(), *twin.buffers()], strict=True):
        one.copy_(drawn)


def random_weights(model: nn.Module, batches: Iterable[Any] = (), seed: int = 0) -> nn.Module:
    """A copy of ``model`` that has forgotten everything.

    Modules that can be re-initialised are; every other parameter has its entries shuffled, which keeps its scale.
    BatchNorm statistics are those of the given batches under the new weights.

    Args:
        model: any module.
        batches: model inputs for the BatchNorm statistics.
        seed: of the weights.
    """
    fresh = copied(model)
    norms = [one for one in fresh.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    draw_anew(fresh.modules(), seed, shuffle=True)
    estimate_statistics(fresh, norms, batches)
    return fresh.eval()


@torch.no_grad()
def estimate_statistics(
    model: nn.Module, norms: Sequence[nn.modules.batchnorm._BatchNorm], batches: Iterable[Any]
) -> None:
    """Gives BatchNorms the statistics of the given batches, means over them; all else runs in evaluation mode.

    Args:
        model: any module.
        norms: BatchNorms of it.
        batches: model inputs, two samples or more in each.
    """
    momenta = {one: one.momentum for one in norms}
    model.eval()
    for one in norms:
        one.reset_running_stats()
        one.momentum = None
        one.train()
    for batch in batches if norms else ():
        features_and_logits(model, batch)
    for one, momentum in momenta.items():
        one.momentum = momentum
    model.eval()
