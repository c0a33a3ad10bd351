"""What an objective that sees the model is given of a step: outputs of what trains, and features at other weights."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from transformers.utils import ModelOutput

from hf_immunize.errors import InputError
from hf_immunize.models.forward import ACTIVATIONS, evaluating, fast_layout
from hf_immunize.models.frozen_prefix import FrozenPrefix
from hf_immunize.models.head import features_and_logits, find_head
from hf_immunize.models.last_stage import last_stage
from hf_immunize.models.random_weights import draw_anew
from hf_immunize.models.trainable import blocks_that_train
from hf_immunize.objectives.objective import StepView
from hf_immunize.training.theta_zero import ThetaZero

__all__ = ["Architecture", "step_view", "watched_outputs"]


@dataclass(frozen=True)
class Architecture:
    """What an objective that sees the model needs to know of it once.

    Attributes:
        model: without what wraps it for distributed training.
        sample: model inputs.
    """

    model: nn.Module
    sample: Any

    @cached_property
    def last_block(self) -> frozenset[str]:
        """Names of the parameters of the last stage or block, of what runs after it, and of the head.

        Of all parameters where no block can be told apart.
        """
        try:
            return frozenset(last_stage(self.model, self.sample)[1])
        except InputError:
            return frozenset(name for name, _ in self.model.named_parameters())

    @cached_property
    def layout(self) -> torch.memory_format:
        """In which the model's convolutions run fastest on a CPU."""
        return fast_layout(self.model, lambda one: features_and_logits(one, self.sample))

    def laid_out(self, batch: Mapping[str, Any], prefix: FrozenPrefix | None = None) -> dict[str, Any]:
        """A batch with images on a CPU in that layout, or with activations behind a prefix as they then come out."""
        name = "pixel_values" if prefix is None else ACTIVATIONS
        images = batch.get(name)
        if not isinstance(images, torch.Tensor) or images.ndim != 4 or images.device.type != "cpu":
            return dict(batch)
        layout = self.layout if prefix is None else prefix.layout
        return {**batch, name: images.contiguous(memory_format=layout)}

    def redrawn(self, seed: int) -> dict[str, torch.Tensor]:
        """Fresh values by the seed: of the last block's parameters whose modules can draw them, without the head."""
        head = set(find_head(self.model, self.sample).names)
        names = sorted({one.rpartition(".")[0] for one in self.last_block} - head)
        modules = {name: self.model.get_submodule(name) for name in names}
        # On the CPU, so that every device gets the same.
        fresh = {name: copy.deepcopy(one).cpu() for name, one in modules.items() if hasattr(one, "reset_parameters")}
        draw_anew(fresh.values(), seed)
        return {
            f"{name}.{own}": value.detach().to(modules[name].get_parameter(own).device)
            for name, module in fresh.items()
            for own, value in module.named_parameters(recurse=False)
        }

    @contextmanager
    def batch_statistics(self, names: Iterable[str]) -> Iterator[None]:
        """The BatchNorms that own one of the named parameters read the statistics of their batch, and keep theirs."""
        owners = {one.rpartition(".")[0] for one in names}
        norms = [
            module
            for name, module in self.model.named_modules()
            if name in owners and isinstance(module, nn.modules.batchnorm._BatchNorm)
        ]
        before = [(one.training, one.track_running_stats) for one in norms]
        for one in norms:
            one.training, one.track_running_stats = True, False
        try:
            yield
        finally:
            for one, (training, tracks) in zip(norms, before, strict=True):
                one.training, one.track_running_stats = training, tracks


@contextmanager
def watched_outputs(model: nn.Module, inputs: Any) -> Iterator[dict[str, torch.Tensor]]:
    """Collects what the blocks that train give out in the forward passes within; the head's logits are left out."""
    found: dict[str, torch.Tensor] = {}
    head = find_head(model, inputs).names

    def keep(name: str) -> Any:
        def hook(module: nn.Module, given: Any, output: Any) -> None:
            tensor = output[0] if isinstance(output, (tuple, list, ModelOutput)) else output
            if isinstance(tensor, torch.Tensor) and tensor.ndim > 1:
                found[name] = tensor

        return hook

    with contextlib.ExitStack() as hooks:
        for name, block in blocks_that_train(model):
            if name not in head:
                hooks.enter_context(block.register_forward_hook(keep(name)))
        yield found


def step_view(
    architecture: Architecture,
    prefix: FrozenPrefix | None,
    primary: Mapping[str, Any],
    harmful: Mapping[str, Any],
    features: tuple[torch.Tensor, torch.Tensor],
    hidden: Mapping[str, torch.Tensor],
    seeds: tuple[int, int],
    progress: float = 0.0,
    logits: torch.Tensor | None = None,
    theta_zero: ThetaZero | None = None,
) -> StepView:
    """The view of one step.

    Args:
        architecture: of the model.
        prefix: what stands for the frozen part, where the batches hold its activations.
        primary: the primary batch.
        harmful: the harmful batch.
        features: of both, from the step's own forward pass; no rows of a batch that was left out of it.
        hidden: outputs of what trains on both batches together, the harmful rows last.
        seeds: of what is drawn in this step, and of the run.
        progress: share of the run's steps that lie behind.
        logits: of the primary batch, from the step's own forward pass.
        theta_zero: what the model was before the first step.
    """
    model, n_harmful = architecture.model, len(features[1])
    reader = _Reader(model, prefix)

    def at(weights: Mapping[str, torch.Tensor], batch: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        named = {f"model.{name}": value for name, value in weights.items()}
        return functional_call(reader, named, ({name: one for name, one in batch.items() if name != "labels"},))

    @torch.no_grad()
    def initial_logits() -> torch.Tensor:
        assert theta_zero is not None, "the Trainer gives it"
        # By one name each: weights that two modules share are those of the first.
        own = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
        weights = theta_zero.on(features[0].device)
        with evaluating(model):
            return at({name: one for name, one in weights.items() if name in own}, primary)[1]

    return StepView(
        parameters={name: one for name, one in model.named_parameters() if one.requires_grad},
        primary=primary,
        harmful=harmful,
        primary_features=features[0],
        harmful_features=features[1],
        hidden={name: one[-n_harmful:] for name, one in hidden.items()} or {"features": features[1]},
        features=lambda weights, batch: at(weights, batch)[0],
        seed=seeds[0],
        run_seed=seeds[1],
        progress=progress,
        last_block=architecture.last_block,
        redrawn=architecture.redrawn,
        batch_statistics=architecture.batch_statistics,
        layout=architecture.layout,
        primary_logits=features[0].new_empty(0) if logits is None else logits,
        initial_logits=initial_logits,
    )


class _Reader(nn.Module):
    """Features and logits as the output of a module, so that it can be called with other parameters."""

    def __init__(self, model: nn.Module, prefix: FrozenPrefix | None) -> None:
        super().__init__()
        self.model, self.prefix = model, prefix

    def forward(self, batch: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        prefix = self.prefix if ACTIVATIONS in batch else None
        with contextlib.nullcontext() if prefix is None else prefix.bypassed():
            return features_and_logits(self.model, batch)
