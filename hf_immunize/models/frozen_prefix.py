"""The frozen part of a model, run once per image: training and measuring then repeat only what trains.

Where the frozen part is bypassed, every module before what trains hands its input on, so that the model takes the
activations at the start of its trainable part in place of images. A split is accepted only if it reproduces the model's
logits.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn

from hf_immunize.data.random_numbers import undisturbed_random_numbers
from hf_immunize.errors import InputError
from hf_immunize.models.copies import copied
from hf_immunize.models.first_token import FirstTokenReaders, reading_first_token, shorten
from hf_immunize.models.forward import as_weights_are, buffers_kept, evaluating, fast_layout, unwrap
from hf_immunize.models.head import features_and_logits
from hf_immunize.models.in_parts import in_parts
from hf_immunize.models.tf32 import without_tf32
from hf_immunize.models.trainable import keep_still, modules_before_training

__all__ = ["FrozenPrefix", "shared_prefix"]


class _PassOn(nn.Module):
    """Hands its first input on; other attributes are those of the module that it stands in for."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        # In a tuple, so that the frozen parameters are not registered once more.
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
    """Splits a model whose trainable parameters have been chosen into a frozen prefix and a trainable rest.

    Args:
        model: the classifier, after :func:`hf_immunize.models.trainable.select_trainable`.
        inputs: a batch to split and to check with.

    Attributes:
        model: the classifier, which this object never changes for longer than a ``with``.

    Raises:
        InputError: the trainable part does not hang on one tensor alone, so the model cannot be split.
    """

    def __init__(self, model: nn.Module, inputs: torch.Tensor | Mapping[str, Any]) -> None:
        self.model = unwrap(model)
        others = sorted(set(inputs) - {"pixel_values", "labels"}) if isinstance(inputs, Mapping) else []
        if others:
            raise InputError(self._refusal(f"the model takes {', '.join(others)} beside images"))
        training = self.model.training
        self.model.eval()
        try:
            early = modules_before_training(self.model, inputs)
            self._early = sorted(name for name in early if not any(other in early for other in _ancestors(name)))
            self._cut = self._first_trained()
            images = self._images = inputs["pixel_values"] if isinstance(inputs, Mapping) else inputs
            with torch.no_grad():
                expected = features_and_logits(self.model, images)
                try:
                    activations = self(images)
                    if len(activations) != len(images):
                        raise InputError("its activations are not one row an image")
                    with self.bypassed(every_token=True):
                        found = features_and_logits(self.model, activations)
                        run = partial(features_and_logits, self.model)
                        self._runs_in_training(activations)
                        self._first_token = reading_first_token(self.model, activations[:4], run)
                    drawn = self._as_in_training(images)
                except Exception as error:
                    raise InputError(self._refusal(str(error))) from error
            # Features too: a head of zeros gives the same logits for anything.
            for one, other in zip(expected, found, strict=True):
                if not torch.allclose(one, other, rtol=1e-4, atol=1e-5):
                    raise InputError(self._refusal("what trains, alone, gives other features or logits"))
            if not torch.allclose(activations, drawn, rtol=1e-4, atol=1e-5):
                raise InputError(self._refusal("in a training its activations are others (dropout in forward, say)"))
        finally:
            self.model.train(training)

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, training: bool = False) -> torch.Tensor:
        """Activations (n, …) at the start of the trainable part, for images (n, C, H, W).

        Args:
            images: model inputs.
            training: as they come in a training, where the frozen part stands still, and the model's own forward not.
        """
        kept: list[torch.Tensor] = []

        def reached(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            kept.append(args[0] if args else next(iter(kwargs.values())))
            raise _Reached

        handle = self.model.get_submodule(self._cut).register_forward_pre_hook(reached, with_kwargs=True)
        with handle, evaluating(self.model), as_weights_are(self.model), without_tf32():
            if training:
                keep_still(self.model.train())
            for few in in_parts({"pixel_values": images}):
                with suppress(_Reached):
                    features_and_logits(self.model, few)
        return kept[0] if len(kept) == 1 else torch.cat(kept)

    def _runs_in_training(self, activations: torch.Tensor) -> None:
        """Raises what a training would: heads beside the last one may read the frozen part then."""
        with evaluating(self.model), undisturbed_random_numbers(), buffers_kept(self.model):
            keep_still(self.model.train())
            features_and_logits(self.model, activations)

    def _as_in_training(self, images: torch.Tensor) -> torch.Tensor:
        """Activations of a training: a forward may draw by itself, without a module that could be held still."""
        with undisturbed_random_numbers():
            return self(images, training=True)

    @cached_property
    def layout(self) -> torch.memory_format:
        """In which activations reach what trains where images lie as convolutions are fastest on a CPU."""
        images = self._images
        fast = fast_layout(self.model, lambda one: features_and_logits(one, images))
        reached = self(images.contiguous(memory_format=fast))
        is_last = reached.ndim == 4 and reached.is_contiguous(memory_format=torch.channels_last)
        return torch.channels_last if is_last else torch.contiguous_format

    @contextmanager
    def bypassed(self, every_token: bool = False) -> Iterator[nn.Module]:
        """Inside, the model takes activations in place of images; it is what it was afterwards.

        Args:
            every_token: whether tokens that neither features nor logits depend on are computed too, for those who look
                in between.
        """
        originals = _bypass(self.model, self._early)
        try:
            with shorten(self.model, FirstTokenReaders() if every_token else self._first_token):
                yield self.model
        finally:
            for name, module in originals.items():
                holder, own = _place(self.model, name)
                holder._modules[own] = module
            self.model.__dict__.pop("_pos_embed", None)

    def tail(self) -> nn.Module:
        """A copy of the model that takes activations always."""
        twin = copied(self.model)
        _bypass(twin, self._early)
        shorten(twin, self._first_token)
        return twin

    def of(self, model: nn.Module) -> FrozenPrefix:
        """The same split of another model of the same structure."""
        other = copy.copy(self)
        other.model = unwrap(model)
        return other

    def digest(self) -> bytes:
        """What tells two frozen parts apart: the structure, and every weight and statistic outside what trains."""
        digest = hashlib.blake2b(f"{type(self.model)} {self.model!r} {self._early} {self._cut}".encode())
        named = self.model.named_parameters(remove_duplicate=False)
        trained = {name for name, parameter in named if parameter.requires_grad}
        holders = {name.rpartition(".")[0] for name in trained}
        for name, value in self.model.state_dict().items():
            if name not in trained and name.rpartition(".")[0] not in holders:
                digest.update(name.encode())
                digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.digest()

    def _first_trained(self) -> str:
        trained = [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]
        if not trained or not self._early:
            raise InputError(self._refusal("nothing frozen stands before what trains"))
        return _top_trained(self.model, self._early)

    def _refusal(self, reason: str) -> str:
        return (
            f"The frozen part of {type(self.model).__name__} cannot be run once for all: {reason}. Train without the "
            "cache (cache_frozen='off'); the result is the same."
        )


def shared_prefix(models: Sequence[nn.Module], inputs: torch.Tensor | Mapping[str, Any]) -> FrozenPrefix | None:
    """The layers that models share, found by comparing their tensors, as the prefix of a float32 copy.

    Args:
        models: of the same structure; every parameter and statistic counts.
        inputs: a few images, or a batch of them, to split and to check with, on the device where the copy is to run.

    Returns:
        None where the models are the same, share no first layers, or cannot be split there.
    """
    one, *others = (unwrap(model) for model in models)
    batch = dict(inputs) if isinstance(inputs, Mapping) else {"pixel_values": inputs}
    batch["pixel_values"] = batch["pixel_values"].float()
    mine, differ = one.state_dict(), set()
    for other in others:
        theirs = other.state_dict()
        shapes = [{name: value.shape for name, value in state.items()} for state in (mine, theirs)]
        if repr(one) != repr(other) or shapes[0] != shapes[1]:
            return None
        differ |= {name for name, value in mine.items() if not torch.equal(value, theirs[name].to(value))}
    # Statistics differ where the parameters beside them may not: a module is another one with all that it holds.
    apart = {name.rpartition(".")[0] for name in differ}
    twin = copied(one).to(batch["pixel_values"].device, torch.float32)
    while apart:
        for name, parameter in twin.named_parameters(remove_duplicate=False):
            parameter.requires_grad_(any(name.startswith(f"{holder}.") for holder in apart))
        try:
            if all(any(part.requires_grad for part in twin.get_submodule(name).parameters()) for name in apart):
                return FrozenPrefix(twin, batch)
        except InputError:
            pass
        # Inside a block one tensor may not be enough; in front of it, it is.
        wider = {name.rpartition(".")[0] or name for name in apart}
        apart = set() if wider == apart else wider
    return None


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


def _bypass(model: nn.Module, names: list[str]) -> dict[str, nn.Module]:
    """Puts a stand-in in the place of each named module, and returns what stood there."""
    originals: dict[str, nn.Module] = {}
    for name in names:
        holder, own = _place(model, name)
        originals[name] = holder.get_submodule(own)
        holder._modules[own] = _PassOn(originals[name])
    if hasattr(model, "_pos_embed"):
        # timm's ViTs add positions (and the class token) in a method, which the activations already hold.
        model.__dict__["_pos_embed"] = _same
    return originals


def _place(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    parent, _, own = name.rpartition(".")
    return model.get_submodule(parent), own


def _same(activations: torch.Tensor) -> torch.Tensor:
    return activations


def _ancestors(name: str) -> list[str]:
    return [name[:position] for position, sign in enumerate(name) if sign == "."]
