"""The head of any classifier, found by probing, and (features, logits) in one forward.

The head is the linear layer (or convolution) whose output is the logits, whatever it is called, and features are what
it reads: what an attacker who keeps the network and draws its last layer anew would probe. So, kind by kind:

* a head behind several layers (an MLP, a pooled map that goes through a convolution): the input of the last one;
* a dropout before the head: what goes into the dropout, so that features are the same in training;
* a 1×1 convolution or a linear layer on every position, whose mean is the logits: the mean of its input;
* several heads whose outputs are averaged or added (distilled models, branches of two scales): all their inputs, side
  by side;
* a head with an auxiliary part that is not linear in it (a maximum over positions, say) added to the logits: the input
  of the head alone;
* auxiliary outputs beside the logits: no part of it.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hf_immunize.errors import InputError
from hf_immunize.models.forward import Call, forward, logits_of, logits_of_two, trace, unwrap

__all__ = ["Head", "features_and_logits", "find_head"]


DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


@dataclass(frozen=True)
class Source:
    """The input or output of one call of a module: the head's own input, or what stands before a dropout before it.

    ``shape`` is that of a row where the head reads it in another one, behind a ``Flatten`` say.
    """

    module: str
    end: str
    call: int = 0
    shape: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Head:
    """The layers whose outputs are the logits, or summands of them (two in a distilled model), by module name.

    Attributes:
        names: module names in ``model.named_modules()``.
        sources: for each, where the features are read.
        n_features: width d of the features (summed over the layers).
        n_classes: number of logits.
    """

    names: tuple[str, ...]
    sources: tuple[Source, ...]
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
    captured: dict[Source, torch.Tensor] = {}
    with _capturing(inner, head.sources, captured):
        logits = logits_of(forward(model, inputs), inner)
        if not captured and model is not inner:
            # What was compiled before there were hooks runs without them: this pass again, as it was written.
            logits = logits_of(forward(inner, inputs), inner)
    missing = [source.module for source in head.sources if source not in captured]
    if missing:
        raise InputError(f"{missing[0]!r} of {type(inner).__name__}, at its head, did not run in this forward pass.")
    layers = [inner.get_submodule(name) for name in head.names]
    features = [_rows(captured[source], layer) for source, layer in zip(head.sources, layers, strict=True)]
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
def _capturing(model: nn.Module, sources: Sequence[Source], into: dict[Source, torch.Tensor]) -> Iterator[None]:
    seen: Counter[tuple[str, str]] = Counter()

    def keep(name: str, end: str, value: torch.Tensor, copied: bool) -> None:
        at = (name, end, seen[name, end])
        seen[name, end] += 1
        for source in sources:
            if (source.module, source.end, source.call) == at:
                value = value.clone() if copied else value
                into[source] = value if source.shape is None else value.reshape(len(value), *source.shape)

    def keep_input(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            value = args[0] if args else next(iter(kwargs.values()))
            keep(name, "input", value, copied=getattr(module, "inplace", False))

        return hook

    def keep_output(name: str) -> Any:
        return lambda _module, _args, output: keep(name, "output", output, copied=False)

    with ExitStack() as hooks:
        for name, end in {(source.module, source.end) for source in sources}:
            module = model.get_submodule(name)
            if end == "input":
                hooks.enter_context(module.register_forward_pre_hook(keep_input(name), with_kwargs=True))
            else:
                hooks.enter_context(module.register_forward_hook(keep_output(name)))
        yield


def _probe(model: nn.Module, inputs: torch.Tensor | Mapping[str, Any]) -> Head:
    calls, _, logits = trace(model, inputs)
    # Each linear layer that could be the head, with its features and what it makes of them.
    linear = [
        (call, features, output)
        for call in calls
        if isinstance(call.module, (nn.Linear, nn.Conv2d)) and call.input is not None and call.output is not None
        for features, output in [(_rows(call.input, call.module), _rows(call.output, call.module))]
        if output.shape == logits.shape and features.shape[1] == call.module.weight[0].numel()
    ]
    heads = [one for one in linear if torch.equal(one[2], logits)]
    # Heads of zeros, as a fine-tuning begins with, give the same whichever of them makes the logits.
    alike = len(heads) > 1 and torch.equal(logits, logits[:1].expand_as(logits))
    if not alike:
        heads = heads[-1:]
    if not heads or alike:
        heads = [one for one in linear if _is_summand(one[0], model, inputs, logits)]
    if not heads:
        raise InputError(
            f"No linear layer of {type(model).__name__} gives its {logits.shape[1]} logits from features of shape "
            "(n, d), so its head cannot be found. A model with num_classes=0 has none (immunize(..., "
            "new_head=True, fit_steps=300) gives it one); put one nn.Linear last."
        )
    width = sum(features.shape[1] for _, features, _ in heads)
    sources = tuple(_source(calls, call) for call, _, _ in heads)
    return Head(tuple(call.name for call, _, _ in heads), sources, width, logits.shape[1])


def _rows(values: torch.Tensor, layer: nn.Module) -> torch.Tensor:
    """Input or output of a layer as (n, width), the mean over positions where the layer works on each by itself."""
    if isinstance(layer, nn.Linear):
        return values.flatten(1, -2).mean(1) if values.ndim > 2 else values
    if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and values.ndim == 4:
        return values.flatten(2).mean(2)
    return values.flatten(1)


def _is_summand(call: Call, model: nn.Module, inputs: torch.Tensor | Mapping[str, Any], logits: torch.Tensor) -> bool:
    """Whether a multiple of the layer's output, and nothing else of it, goes into the logits: more there is more here.

    What is added differs from position to position, so that a maximum over them is not taken for their mean.
    """
    assert call.output is not None
    scale = max(1.0, logits.abs().max().item())
    more = scale * torch.linspace(1, 2, call.output.numel(), device=logits.device).to(logits.dtype).view_as(call.output)
    with call.module.register_forward_hook(lambda _module, _args, output: output + more), torch.no_grad():
        moved = logits_of_two(model, inputs) - logits
    added = _rows(more, call.module)
    multiple = (moved * added).sum() / (added * added).sum()
    return bool(multiple.abs() > 1e-3) and torch.allclose(moved, multiple * added, rtol=1e-3, atol=1e-4 * scale)


def _source(calls: list[Call], head: Call) -> Source:
    # In evaluation mode a dropout, whether a module or a function, hands its input on: the first call that gave this
    # tensor stands before it. A module that drops in place is read at its input.
    assert head.input is not None
    same = [call for call in calls if call.output is head.input]
    dropouts = [call for call in calls if isinstance(call.module, DROPOUTS) and _same_values(call.output, head.input)]
    first = (dropouts or same or [head])[0]
    own = [call for call in calls if call.module is first.module]
    at = first.name, "input" if first is head or dropouts else "output", own.index(first)
    reshaped = bool(dropouts) and first.output is not None and first.output.shape != head.input.shape
    return Source(*at, tuple(head.input.shape[1:]) if reshaped else None)


def _same_values(one: torch.Tensor | None, other: torch.Tensor) -> bool:
    """Whether they are one tensor, perhaps seen in two shapes."""
    if one is None or one is other:
        return one is other
    alike = one.numel() == other.numel() and one.data_ptr() == other.data_ptr()
    return alike and one.is_contiguous() and other.is_contiguous() and len(one) == len(other)


def _still_valid(model: nn.Module, head: Head) -> bool:
    try:
        layers = [model.get_submodule(name) for name in head.names]
    except AttributeError:
        return False
    outputs = {layer.weight.shape[0] for layer in layers if isinstance(layer, (nn.Linear, nn.Conv2d))}
    return len(outputs) == 1 and outputs == {head.n_classes}
