"""A model of the same architecture with random weights: what an attacker reaches without what was released."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from hf_immunize.models.head import features_and_logits

__all__ = ["random_weights"]


def random_weights(model: nn.Module, batches: Iterable[Any] = (), seed: int = 0) -> nn.Module:
    """A copy of ``model`` that has forgotten everything.

    Modules that can be re-initialised are; every other parameter has its entries shuffled, which keeps its scale.
    BatchNorm statistics are those of the given batches under the new weights.

    Args:
        model: any module.
        batches: model inputs for the BatchNorm statistics.
        seed: of the weights.
    """
    fresh = copy.deepcopy(model)
    norms = [one for one in fresh.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for module in fresh.modules():
            reset = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()
                continue
            for parameter in module.parameters(recurse=False):
                order = torch.randperm(parameter.numel()).to(parameter.device)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
        fresh.train()
        momenta = {one: one.momentum for one in norms}
        for one in norms:
            one.momentum = None
        if norms:
            for batch in batches:
                features_and_logits(fresh, batch)
        for one, momentum in momenta.items():
            one.momentum = momentum
    return fresh.eval()
