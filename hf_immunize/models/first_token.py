"""The part of a model of which nothing but the first token is read: the other tokens need not be computed there.

In the last block of a ViT whose head reads the class token, the attention of every other token and all that follows it
are computed for nothing. Where that is so is told by the gradient, exactly zero at all tokens but the first. Where one
token is added to those that went around a module, the sum is right where it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from hf_immunize.data.random_numbers import undisturbed_random_numbers
from hf_immunize.models.forward import as_weights_are, buffers_kept, evaluating
from hf_immunize.models.trainable import keep_still

__all__ = ["FirstTokenReaders", "reading_first_token", "shorten"]

Run = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class FirstTokenReaders:
    """Names of modules of which the first token alone is read.

    Attributes:
        layers: take the first token of their input.
        attentions: attend with the query of the first token, to all of them.
    """

    layers: tuple[str, ...] = ()
    attentions: tuple[str, ...] = ()


def reading_first_token(model: nn.Module, activations: torch.Tensor, run: Run) -> FirstTokenReaders:
    """The modules with which, given or asking for the first token alone, features and logits stay as they are.

    Args:
        model: what runs.
        activations: its input (n, tokens, d); of another shape nothing is found.
        run: gives features and logits of such activations.

    Returns:
        none at all where features and logits are others in a training: dropout draws other numbers for other shapes.
    """
    none = FirstTokenReaders()
    if activations.ndim != 3 or activations.shape[1] < 2:
        return none
    with evaluating(model), undisturbed_random_numbers(), as_weights_are(model):
        found = _without_gradient_elsewhere(model, activations, run)
        for training in (False, True) if found.layers or found.attentions else ():
            keep_still(model.train(training))
            whole = _as_if_first(model, run, activations)
            try:
                with shorten(model, found), _watched(model) as seen:
                    alone = _as_if_first(model, run, activations)
            except (RuntimeError, ValueError):
                return none
            if not all(map(_equal, whole, alone)):
                return none
            # What stands behind another one is given one token as it is.
            layers = tuple(name for name in found.layers if seen.inputs[name][0].shape[1] > 1)
            found = FirstTokenReaders(layers, found.attentions)
    return found


def shorten(model: nn.Module, readers: FirstTokenReaders) -> ExitStack:
    """These modules compute the first token alone from now on; what is returned is a context that ends it."""
    hooks = ExitStack()
    for name in readers.layers:
        hooks.enter_context(model.get_submodule(name).register_forward_pre_hook(_first_of_input))
    for name in readers.attentions:
        module, mode = model.get_submodule(name), _FirstQuery()
        hooks.enter_context(module.register_forward_pre_hook(mode.begin))
        hooks.enter_context(module.register_forward_hook(mode.end, always_call=True))
    return hooks


def _first_of_input(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (args[0][:, :1], *args[1:])


class _FirstQuery(TorchFunctionMode):
    """Attention of the first query alone, in the place of that of each."""

    def begin(self, *_: Any) -> None:
        self.__enter__()

    def end(self, *_: Any) -> None:
        self.__exit__(None, None, None)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention or not _plain(*args, **kwargs):
            return func(*args, **kwargs)
        named = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
        n_queries = named["query"].shape[-2]
        first = func(**{**named, "query": named["query"][..., :1, :]})
        return first.expand(*first.shape[:-2], n_queries, first.shape[-1])


def _plain(
    query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False, **_: Any
) -> bool:
    return attn_mask is None and dropout_p == 0.0 and not is_causal


def _without_gradient_elsewhere(model: nn.Module, activations: torch.Tensor, run: Run) -> FirstTokenReaders:
    """Modules that run once, with a gradient at the first token and one of exactly zero at all others.

    The gradient is that of random sums of features and logits.
    """
    with torch.enable_grad(), _watched(model) as seen:
        outputs = run(activations.detach().requires_grad_())
    directions = [torch.randn_like(one) for one in outputs]
    found: list[tuple[str, ...]] = []
    for calls, axis in ((seen.inputs, 1), (seen.attended, 2)):
        once = {
            name: given[0]
            for name, given in calls.items()
            if len(given) == 1 and given[0].requires_grad and given[0].shape[axis] == activations.shape[1]
        }
        gradients = (
            torch.autograd.grad(outputs, list(once.values()), directions, retain_graph=True, allow_unused=True)
            if once
            else ()
        )
        by_token = {name: one.movedim(axis, 0) for name, one in zip(once, gradients, strict=True) if one is not None}
        found.append(tuple(name for name, one in by_token.items() if one[0].any() and not one[1:].any()))
    return FirstTokenReaders(*found)


@dataclass
class _Seen:
    """Tensors by the module that was running, call by call.

    Attributes:
        inputs: what layers were given by position, where of the shape (n, tokens, d).
        attended: what attention came to within a module, of the shape (n, heads, tokens, d).
    """

    inputs: dict[str, list[torch.Tensor]]
    attended: dict[str, list[torch.Tensor]]


@contextmanager
def _watched(model: nn.Module) -> Iterator[_Seen]:
    seen, running = _Seen({}, {}), [""]

    class Attention(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            output = func(*args, **(kwargs or {}))
            if func is F.scaled_dot_product_attention and output.ndim == 4:
                seen.attended.setdefault(running[-1], []).append(output)
            return output

    def before(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            running.append(name)
            is_layer = next(module.children(), None) is None
            if is_layer and args and isinstance(args[0], torch.Tensor) and args[0].ndim == 3:
                seen.inputs.setdefault(name, []).append(args[0])

        return hook

    def after(*_: Any) -> None:
        running.pop()

    with ExitStack() as hooks, Attention():
        for name, module in model.named_modules():
            hooks.enter_context(module.register_forward_pre_hook(before(name), prepend=True))
            hooks.enter_context(module.register_forward_hook(after, always_call=True))
        yield seen


def _as_if_first(model: nn.Module, run: Run, activations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each time with the same random numbers and buffers."""
    torch.manual_seed(0)
    with torch.no_grad(), buffers_kept(model):
        return run(activations)


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and bool((one - other).abs().max() <= 1e-5 * one.abs().max())
