"""What an objective that sees the model is given of a step: outputs of what trains, and features at other weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from hf_immunize.models.forward import ACTIVATIONS
from hf_immunize.models.frozen_prefix import FrozenPrefix
from hf_immunize.models.head import features_and_logits, find_head
from hf_immunize.models.trainable import TrainableSelection
from hf_immunize.objectives.objective import StepView

__all__ = ["step_view", "watched_outputs"]


@contextmanager
def watched_outputs(model: nn.Module, selection: TrainableSelection, inputs: Any) -> Iterator[dict[str, torch.Tensor]]:
    """Collects what the modules that train give out in the forward passes within; the head's logits are left out."""
    found: dict[str, torch.Tensor] = {}
    head = find_head(model, inputs).names

    def keep(name: str) -> Any:
        def hook(module: nn.Module, given: Any, output: Any) -> None:
            tensor = output[0] if isinstance(output, (tuple, list)) else output
            if isinstance(tensor, torch.Tensor) and tensor.ndim > 1:
                found[name] = tensor

        return hook

    with contextlib.ExitStack() as hooks:
        for name in selection.modules:
            if name not in head:
                hooks.enter_context(_removed(model.get_submodule(name).register_forward_hook(keep(name))))
        yield found


@contextmanager
def _removed(handle: torch.utils.hooks.RemovableHandle) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


def step_view(
    model: nn.Module,
    prefix: FrozenPrefix | None,
    primary: Mapping[str, Any],
    harmful: Mapping[str, Any],
    features: tuple[torch.Tensor, torch.Tensor],
    hidden: Mapping[str, torch.Tensor],
    seed: int,
) -> StepView:
    """The view of one step.

    Args:
        model: without what wraps it for distributed training.
        prefix: what stands for the frozen part, where the batches hold its activations.
        primary: the primary batch.
        harmful: the harmful batch.
        features: of both, from the step's own forward pass.
        hidden: outputs of what trains on both batches together, the harmful rows last.
        seed: of what is drawn in this step.
    """
    n_harmful = len(features[1])
    reader = _Features(model, prefix)

    def at(parameters: Mapping[str, torch.Tensor], batch: Mapping[str, Any]) -> torch.Tensor:
        named = {f"model.{name}": value for name, value in parameters.items()}
        return functional_call(reader, named, ({name: one for name, one in batch.items() if name != "labels"},))

    return StepView(
        parameters={name: one for name, one in model.named_parameters() if one.requires_grad},
        primary=primary,
        harmful=harmful,
        primary_features=features[0],
        harmful_features=features[1],
        hidden={name: one[-n_harmful:] for name, one in hidden.items()} or {"features": features[1]},
        features=at,
        seed=seed,
    )


class _Features(nn.Module):
    """Features as the output of a module, so that it can be called with other parameters."""

    def __init__(self, model: nn.Module, prefix: FrozenPrefix | None) -> None:
        super().__init__()
        self.model, self.prefix = model, prefix

    def forward(self, batch: Mapping[str, Any]) -> torch.Tensor:
        prefix = self.prefix if ACTIVATIONS in batch else None
        with contextlib.nullcontext() if prefix is None else prefix.bypassed():
            return features_and_logits(self.model, batch)[0]
