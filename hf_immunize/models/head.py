"""The head of any classifier, found by probing, and (features, logits) in one forward.

Features are the input of the head: the linear layer (or 1×1 convolution) whose output is the logits, whatever it is
called.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hf_immunize.errors import InputError
from hf_immunize.models.forward import Call, forward, logits_of, trace, unwrap

__all__ = ["Head", "features_and_logits", "find_head"]


@dataclass(frozen=True)
class Head:
    """The layers whose mean output is the logits (one, or two in a distilled model), by module name.

    Attributes:
        names: module names in ``model.named_modules()``.
        sources: for each, the module whose ``"input"`` or ``"output"`` is the features: the head's own input, or what
            stands before a dropout (a module or a function) in front of it.
        n_features: width d of the features (summed over the layers).
        n_classes: number of logits.
    """

    names: tuple[str, ...]
    sources: tuple[tuple[str, str], ...]
    n_features: int
    n_classes: int


_heads: weakref.WeakKeyDictionary[nn.Module, Head] = weakref.WeakKeyDictionary()


def features_and_logits(
    model: nn.Module, inputs: torch.Tensor | Mapping[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The features before the head and the logits, from one forward pass.

    Args:
        model: a `transformers` image classifier, a `timm` model, or a module like them; it may be wrapped for
            distributed training or compiled.
        inputs: images of shape (n, C, H, W), or a mapping of model inputs (labels in it are left out).

    Returns:
        features (n, d) and logits (n, classes). In training mode the features are those before a dropout that stands
        right before the head.

    Raises:
        ValueError: the model gives no logits, or no layer was found whose output they are.
    """
    inner = unwrap(model)
    head = find_head(inner, inputs)
    captured: dict[str, torch.Tensor] = {}
    with _capturing(inner, head.sources, captured):
        logits = logits_of(forward(model, inputs), inner)
        if not captured and model is not inner:
            # What was compiled before there were hooks runs without them: this pass again, as it was written.
            logits = logits_of(forward(inner, inputs), inner)
    missing = [name for name, _ in head.sources if name not in captured]
    if missing:
        raise InputError(f"{missing[0]!r} of {type(inner).__name__}, at its head, did not run in this forward pass.")
    features = [captured[name].flatten(1) for name, _ in head.sources]
    return (features[0] if len(features) == 1 else torch.cat(features, dim=1)), logits


def find_head(model: nn.Module, inputs: torch.Tensor | Mapping[str, Any]) -> Head:
    """Finds the head by one forward pass in evaluation mode; the answer is kept with the model.

    Raises:
        ValueError: no logits, or no layer whose output they are.
    """
    model = unwrap(model)
    known = _heads.get(model)
    if known is not None and _still_valid(model, known):
        return known
    head = _probe(model, inputs)
    _heads[model] = head
    return head


@contextmanager
def _capturing(model: nn.Module, sources: Sequence[tuple[str, str]], into: dict[str, torch.Tensor]) -> Iterator[None]:
    def keep_input(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            features = args[0] if args else next(iter(kwargs.values()))
            into[name] = features.clone() if getattr(module, "inplace", False) else features

        return hook

    def keep_output(name: str) -> Any:
        def hook(_: nn.Module, __: tuple[Any, ...], output: torch.Tensor) -> None:
            into[name] = output

        return hook

    handles = []
    for name, end in sources:
        module = model.get_submodule(name)
        if end == "input":
            handles.append(module.register_forward_pre_hook(keep_input(name), with_kwargs=True))
        else:
            handles.append(module.register_forward_hook(keep_output(name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _probe(model: nn.Module, inputs: torch.Tensor | Mapping[str, Any]) -> Head:
    calls, _, logits = trace(model, inputs)
    # Each linear layer that could be the head, with its features and what it makes of them.
    linear = [
        (call, call.input.flatten(1), call.output.flatten(1))
        for call in calls
        if isinstance(call.module, (nn.Linear, nn.Conv2d))
        and call.input is not None
        and call.output is not None
        and call.output.numel() == logits.numel()
        and call.input.flatten(1).shape[1] == call.module.weight[0].numel()
    ]
    heads = [one for one in linear if torch.equal(one[2], logits)][-1:]
    if not heads and len(linear) > 1:
        # A distilled model (DeiT, LeViT) averages a class head and a distillation head.
        mean = torch.stack([output for _, _, output in linear]).mean(0)
        heads = linear if torch.allclose(mean, logits, rtol=1e-4, atol=1e-5) else []
    if not heads:
        raise InputError(
            f"No linear layer of {type(model).__name__} gives its {logits.shape[1]} logits from features of shape "
            "(n, d), so its head cannot be found. A model with num_classes=0 has none; put one nn.Linear last."
        )
    sources = [_source(calls, call) for call, _, _ in heads]
    width = sum(features.shape[1] for _, features, _ in heads)
    return Head(tuple(call.name for call, _, _ in heads), tuple(sources), width, logits.shape[1])


def _source(calls: list[Call], head: Call) -> tuple[str, str]:
    position = calls.index(head)
    before = calls[position - 1] if position else None
    if before is None or before.output is not head.input:
        return head.name, "input"
    if isinstance(before.module, nn.Dropout):
        return before.name, "input"
    # Many timm models call F.dropout between this module and the head; in evaluation mode it hands its input on.
    if sum(call.module is before.module for call in calls) == 1:
        return before.name, "output"
    return head.name, "input"


def _still_valid(model: nn.Module, head: Head) -> bool:
    try:
        layers = [model.get_submodule(name) for name in head.names]
    except AttributeError:
        return False
    outputs = {layer.weight.shape[0] for layer in layers if isinstance(layer, (nn.Linear, nn.Conv2d))}
    return len(outputs) == 1 and outputs == {head.n_classes}
