"""The frozen part of a model, run once per image: training then repeats only what trains.

The tail is the model itself with everything before the trainable part replaced by a module that hands its input on; it
shares the trainable modules, so training the tail trains the model. It is accepted only if it reproduces the model's
logits.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from hf_immunize.data.images import collate_images
from hf_immunize.errors import InputError
from hf_immunize.models.forward import unwrap
from hf_immunize.models.head import features_and_logits
from hf_immunize.models.trainable import modules_before_training

__all__ = ["CachedActivations", "FrozenPrefix"]


class _PassOn(nn.Module):
    """Hands its first input on; other attributes are those of the module that it stands in for."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        # In a tuple, so that the frozen parameters are not registered as the tail's.
        self._original = (original,)

    def __getattr__(self, name: str) -> Any:
        if "_original" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.__dict__["_original"][0], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return args[0] if args else next(iter(kwargs.values()))


class _Reached(Exception):
    """Ends a forward pass where the trainable part begins."""


class FrozenPrefix:
    """Splits a model whose trainable parameters have been chosen into a frozen prefix and a trainable tail.

    Args:
        model: the classifier, after :func:`hf_immunize.models.backbones.select_trainable`.
        inputs: a batch to split and to check with.

    Attributes:
        tail: a module that takes the prefix's activations in place of images and shares the trainable modules.

    Raises:
        ValueError: the trainable part does not hang on one tensor alone, so the model cannot be split.
    """

    def __init__(self, model: nn.Module, inputs: torch.Tensor | Mapping[str, Any]) -> None:
        self.model = unwrap(model)
        training = self.model.training
        self.model.eval()
        try:
            early = modules_before_training(self.model, inputs)
            outermost = sorted(name for name in early if not any(other in early for other in _ancestors(name)))
            self._cut = self._first_trained(outermost)
            self.tail = _without(self.model, outermost)
            images = inputs["pixel_values"] if isinstance(inputs, Mapping) else inputs
            with torch.no_grad():
                expected = features_and_logits(self.model, images)[1]
                try:
                    found = features_and_logits(self.tail, self(images))[1]
                except Exception as error:
                    raise InputError(self._refusal(str(error))) from error
            if not torch.allclose(expected, found, rtol=1e-4, atol=1e-5):
                raise InputError(self._refusal("the tail alone gives other logits"))
        finally:
            self.model.train(training)

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Activations (n, …) at the start of the trainable part, for images (n, C, H, W)."""
        kept: list[torch.Tensor] = []

        def reached(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            kept.append(args[0] if args else next(iter(kwargs.values())))
            raise _Reached

        training = self.model.training
        self.model.eval()
        handle = self.model.get_submodule(self._cut).register_forward_pre_hook(reached, with_kwargs=True)
        try:
            features_and_logits(self.model, images)
        except _Reached:
            pass
        finally:
            handle.remove()
            self.model.train(training)
        return kept[0]

    def _first_trained(self, early: list[str]) -> str:
        trained = [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]
        if not trained or not early:
            raise InputError(self._refusal("nothing frozen stands before what trains"))
        return _top_trained(self.model, early)

    def _refusal(self, reason: str) -> str:
        return (
            f"The frozen part of {type(self.model).__name__} cannot be run once for all: {reason}. Train without the "
            "cache; the result is the same."
        )


class CachedActivations(Dataset):
    """The prefix's activations of every sample, in memory, read as model inputs of the tail.

    Args:
        prefix: what to run.
        data: a map-style data set of model inputs without randomness.
        batch_size: of the forward passes.
        dtype: of the images; the model's own unless given.
        progress: a label for a progress bar.
    """

    def __init__(
        self,
        prefix: FrozenPrefix,
        data: Any,
        batch_size: int = 64,
        dtype: torch.dtype | None = None,
        progress: str | None = None,
    ) -> None:
        device = next(prefix.model.parameters()).device
        activations, labels = [], []
        starts = range(0, len(data), batch_size)
        for start in tqdm(starts, desc=progress, disable=progress is None, leave=False):
            batch = collate_images([data[index] for index in range(start, min(start + batch_size, len(data)))])
            activations.append(prefix(batch["pixel_values"].to(device, dtype)).cpu())
            if "labels" in batch:
                labels.append(batch["labels"])
        self.activations = torch.cat(activations)
        self.labels = torch.cat(labels) if labels else None

    def __len__(self) -> int:
        return len(self.activations)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        item = {"pixel_values": self.activations[index]}
        return item if self.labels is None else item | {"labels": self.labels[index]}


def _top_trained(model: nn.Module, early: list[str]) -> str:
    """The outermost module that runs after the frozen part and holds no frozen early module."""
    trained = [name.rpartition(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad]
    first = trained[0]
    path = first.split(".")
    for depth in range(1, len(path) + 1):
        name = ".".join(path[:depth])
        module = model.get_submodule(name)
        holds_early = any(one == name or one.startswith(name + ".") for one in early)
        if not holds_early and not isinstance(module, nn.ModuleList):
            return name
    return first


def _without(model: nn.Module, names: list[str]) -> nn.Module:
    """A shallow copy of the model in which the named modules only pass their input on."""
    tail = _shallow(model)
    for name in names:
        parent, _, own = name.rpartition(".")
        holder = tail
        for part in parent.split(".") if parent else []:
            child = _shallow(holder._modules[part])
            holder._modules[part] = child
            holder = child
        holder._modules[own] = _PassOn(holder._modules[own])
    if hasattr(tail, "_pos_embed"):
        # timm's ViTs add positions (and the class token) in a method, which the cached activations already hold.
        tail.__dict__["_pos_embed"] = _same
    return tail


def _same(activations: torch.Tensor) -> torch.Tensor:
    return activations


def _ancestors(name: str) -> list[str]:
    return [name[:position] for position, sign in enumerate(name) if sign == "."]


def _shallow(module: nn.Module) -> nn.Module:
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin
