"""A copy of a model, whatever it keeps of its last pass."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import nn

__all__ = ["copied"]

Model = TypeVar("Model", bound=nn.Module)


def copied(model: Model) -> Model:
    """A copy with weights of its own.

    ``copy.deepcopy`` refuses tensors that a module computed and kept: its last features or attention maps
    (``self.last = features``), or a weight that pruning makes of another. Their values are copied, without the graph.
    """
    kept = (one for module in model.modules() for one in _computed(list(vars(module).values())))
    return copy.deepcopy(model, {id(one): one.detach().clone() for one in kept})


def _computed(values: Any) -> Iterator[torch.Tensor]:
    """Tensors that are no leaves, in lists, tuples and dictionaries too."""
    for one in values:
        if isinstance(one, torch.Tensor):
            if not one.is_leaf:
                yield one
        elif isinstance(one, dict):
            yield from _computed(one.values())
        elif isinstance(one, (list, tuple)):
            yield from _computed(one)
