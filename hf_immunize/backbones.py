"""Any image classifier → (features, logits) in one forward, and what of it trains.

Features are the input of the head. The head is found by probing: it is the linear layer (or 1×1 convolution) whose
output is the logits, whatever its name.
"""

from __future__ import annotations

import difflib
import fnmatch
import inspect
import re
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

__all__ = [
    "Head",
    "TrainableSelection",
    "features_and_logits",
    "find_head",
    "keep_still",
    "modules_before_training",
    "select_trainable",
    "unwrap",
]

#: Keys of a batch that are targets, not model inputs.
TARGETS = ("labels", "label", "label_ids")


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


@dataclass(frozen=True)
class TrainableSelection:
    """What trains: module names (or patterns), the number of parameters, and of all parameters."""

    modules: tuple[str, ...]
    n_parameters: int
    n_total: int

    def __str__(self) -> str:
        share = 100 * self.n_parameters / self.n_total
        return f"{self.n_parameters:,} of {self.n_total:,} parameters ({share:.1f} %): {', '.join(self.modules)}"


_heads: weakref.WeakKeyDictionary[nn.Module, Head] = weakref.WeakKeyDictionary()
#: Modules that run before anything that trains, by name.
_early: weakref.WeakKeyDictionary[nn.Module, frozenset[str]] = weakref.WeakKeyDictionary()


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
        logits = _logits(_forward(model, inputs), inner)
        if not captured and model is not inner:
            # What was compiled before there were hooks runs without them: this pass again, as it was written.
            logits = _logits(_forward(inner, inputs), inner)
    missing = [name for name, _ in head.sources if name not in captured]
    if missing:
        raise ValueError(f"{missing[0]!r} of {type(inner).__name__}, at its head, did not run in this forward pass.")
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


def select_trainable(
    model: nn.Module, selection: str | Sequence[str], inputs: torch.Tensor | Mapping[str, Any]
) -> TrainableSelection:
    """Sets ``requires_grad`` of every parameter.

    Args:
        model: the classifier.
        selection: ``"last"`` (the last stage or block, all that runs after it, and the head, as in the paper's
            section 5.3), ``"all"``, or names or patterns of modules (``["layer4", "*.norm", "fc"]``).
        inputs: a batch, for finding out what runs last.

    Raises:
        ValueError: a pattern that fits no parameter (with the nearest module), or a model without a sequence of
            blocks for ``"last"``.
    """
    model = unwrap(model)
    if selection == "all":
        prefixes, chosen = ["all"], {name for name, _ in model.named_parameters()}
    elif selection == "last":
        prefixes, chosen = _last_stage(model, inputs)
    else:
        patterns = [selection] if isinstance(selection, str) else list(selection)
        prefixes, chosen = patterns, _matching(model, patterns)
    total = trained = 0
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen and parameter.is_floating_point())
        total += parameter.numel()
        trained += parameter.numel() if parameter.requires_grad else 0
    if trained == 0:
        raise ValueError(f"Nothing would train with trainable={selection!r}: no floating-point parameter was chosen.")
    _early[model] = modules_before_training(model, inputs)
    return TrainableSelection(tuple(prefixes), trained, total)


def modules_before_training(model: nn.Module, inputs: torch.Tensor | Mapping[str, Any]) -> frozenset[str]:
    """Names of the modules that start before the first one with trainable parameters, its ancestors left out."""
    _, started, _ = _traced(model, inputs)
    trained = {name.rpartition(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    first = next((position for position, name in enumerate(started) if name in trained), len(started))
    ancestors = {name[:end] for name in trained for end in _ends(name)}
    return frozenset(started[:first]) - ancestors - frozenset(started[first:])


def keep_still(model: nn.Module) -> None:
    """Puts every BatchNorm, and all that stands before or outside the trainable part, in evaluation mode.

    Running statistics and the dropout of frozen parts then do not move; call it after each ``model.train()``.
    """
    inner = unwrap(model)
    for module in _still_modules(inner, _early.get(inner, frozenset())):
        module.training = False


def _still_modules(model: nn.Module, early: frozenset[str]) -> Iterator[nn.Module]:
    trained = {name.rpartition(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    holders = {name[:end] for name in trained for end in _ends(name)}
    for name, module in model.named_modules():
        frozen_ancestor = any(
            name[:end] and name[:end] not in holders and _has_parameters(model, name[:end]) for end in _ends(name)
        )
        if isinstance(module, nn.modules.batchnorm._BatchNorm) or frozen_ancestor or name in early:
            yield module


def _parents(name: str) -> list[str]:
    """The dotted ancestors of ``name``, the nearest first."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]


def _ends(name: str) -> list[int]:
    """Where each dotted ancestor of ``name`` ends, the name itself and the root ("") included."""
    return [0, *(position for position, sign in enumerate(name) if sign == "."), len(name)]


def _has_parameters(model: nn.Module, name: str) -> bool:
    return next(model.get_submodule(name).parameters(), None) is not None


def unwrap(model: nn.Module) -> nn.Module:
    """The module itself, out of DistributedDataParallel and torch.compile.

    Raises:
        ValueError: ``nn.DataParallel``, whose replicas hide what their layers compute.
    """
    while True:
        if isinstance(model, nn.DataParallel):
            raise ValueError("nn.DataParallel is not supported. Start one process a GPU: torchrun --nproc_per_node N …")
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod
        else:
            return model


def _forward(model: nn.Module, inputs: torch.Tensor | Mapping[str, Any]) -> Any:
    inner = unwrap(model)
    by_name = "pixel_values" in inspect.signature(inner.forward).parameters
    if isinstance(inputs, Mapping):
        kept = {key: value for key, value in inputs.items() if key not in TARGETS}
        if by_name or "pixel_values" not in kept:
            return model(**kept)
        return model(kept["pixel_values"])
    return model(pixel_values=inputs) if by_name else model(inputs)


def _logits(output: Any, model: nn.Module) -> torch.Tensor:
    if isinstance(output, Mapping) or hasattr(output, "logits"):
        output = output.get("logits") if isinstance(output, Mapping) else output.logits
    elif isinstance(output, (tuple, list)):
        output = next((part for part in output if isinstance(part, torch.Tensor) and part.ndim == 2), None)
    if not isinstance(output, torch.Tensor) or output.ndim != 2:
        raise ValueError(
            f"{type(model).__name__} gives no logits of shape (n, classes): it has no classification head. Load it "
            "with AutoModelForImageClassification, or with timm.create_model(..., num_classes=N)."
        )
    return output


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


@dataclass(eq=False)
class _Call:
    name: str
    module: nn.Module
    input: torch.Tensor | None
    output: torch.Tensor | None


def _traced(model: nn.Module, inputs: torch.Tensor | Mapping[str, Any]) -> tuple[list[_Call], list[str], torch.Tensor]:
    """One evaluation-mode forward of two samples: finished calls of leaf modules, modules as they started, logits."""
    calls: list[_Call] = []
    started: list[str] = []

    def before(name: str) -> Any:
        return lambda *_: started.append(name)

    def after(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            first = next((part for part in args if isinstance(part, torch.Tensor)), None)
            calls.append(_Call(name, module, first, output if isinstance(output, torch.Tensor) else None))

        return hook

    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(before(name)))
        if next(module.children(), None) is None:
            handles.append(module.register_forward_hook(after(name)))
    modes = {module: module.training for module in model.modules()}
    few = (
        {key: value[:2] if isinstance(value, torch.Tensor) and value.ndim else value for key, value in inputs.items()}
        if isinstance(inputs, Mapping)
        else inputs[:2]
    )
    try:
        model.eval()
        with torch.no_grad():
            logits = _logits(_forward(model, few), model)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    return calls, started, logits


def _probe(model: nn.Module, inputs: torch.Tensor | Mapping[str, Any]) -> Head:
    calls, _, logits = _traced(model, inputs)
    linear = [
        call
        for call in calls
        if isinstance(call.module, (nn.Linear, nn.Conv2d))
        and call.input is not None
        and call.output is not None
        and call.output.numel() == logits.numel()
        and call.input.flatten(1).shape[1] == call.module.weight[0].numel()
    ]
    heads = [call for call in linear if torch.equal(call.output.flatten(1), logits)][-1:]
    if not heads and len(linear) > 1:
        # A distilled model (DeiT, LeViT) averages a class head and a distillation head.
        mean = torch.stack([call.output.flatten(1) for call in linear]).mean(0)
        heads = linear if torch.allclose(mean, logits, rtol=1e-4, atol=1e-5) else []
    if not heads:
        raise ValueError(
            f"No linear layer of {type(model).__name__} gives its {logits.shape[1]} logits from features of shape "
            "(n, d), so its head cannot be found. A model with num_classes=0 has none; put one nn.Linear last."
        )
    sources = [_source(calls, call) for call in heads]
    width = sum(call.input.flatten(1).shape[1] for call in heads)
    return Head(tuple(call.name for call in heads), tuple(sources), width, logits.shape[1])


def _source(calls: list[_Call], head: _Call) -> tuple[str, str]:
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


def _last_stage(model: nn.Module, inputs: torch.Tensor | Mapping[str, Any]) -> tuple[list[str], set[str]]:
    _, started, _ = _traced(model, inputs)
    order = {name: position for position, name in reversed(list(enumerate(started)))}
    head = find_head(model, inputs)
    block = _last_block(model, order, head)
    begin = min(order[name] for name in order if name == block or name.startswith(block + "."))
    late = {name for name, position in order.items() if position >= begin} | set(head.names)
    # A part that its parent uses without calling it (nn.MultiheadAttention's out_proj) runs when the parent does.
    late |= {
        name
        for name, _ in model.named_modules()
        if name not in order and next((one for one in _parents(name) if one in order), "") in late
    }
    chosen = {
        f"{name}.{own}" if name else own
        for name, module in model.named_modules()
        if name in late
        for own, _ in module.named_parameters(recurse=False)
    }
    # A late module may be a container that ran late; its children count only if they ran late too.
    tops = [name for name in late if name and not any(name.startswith(other + ".") for other in late if other)]
    with_parameters = [name for name in tops if any(one.startswith(name + ".") for one in chosen)]
    return sorted(with_parameters, key=lambda name: order.get(name, len(order))), chosen


def _last_block(model: nn.Module, order: Mapping[str, int], head: Head) -> str:
    """The last stage or block: the last member of the last sequence of blocks that runs."""
    sequences = []
    for name, module in model.named_modules():
        inside = any(name.startswith(other + ".") for other in sequences)
        if not isinstance(module, (nn.ModuleList, nn.Sequential)) or inside or not name:
            continue
        if any(head_name.startswith(name + ".") for head_name in head.names):
            continue
        members = [child for child in _members(name, module) if _ran(child, order)]
        if any(next(model.get_submodule(child).children(), None) is not None for child in members):
            sequences.append(name)
    if not sequences:
        raise ValueError(
            f"{type(model).__name__} has no sequence of blocks from which to take the last one. Name what trains: "
            f"trainable=['{head.names[0]}', …] or trainable='all'."
        )
    last = max(sequences, key=lambda name: max(order[one] for one in order if one.startswith(name + ".")))
    family = re.sub(r"\d+", "", last)
    if sum(re.sub(r"\d+", "", name) == family for name in sequences) > 1:
        return last
    return [child for child in _members(last, model.get_submodule(last)) if _ran(child, order)][-1]


def _members(name: str, module: nn.Module) -> list[str]:
    return [f"{name}.{child}" for child, part in module.named_children() if any(True for _ in part.parameters())]


def _ran(name: str, order: Mapping[str, int]) -> bool:
    return name in order or any(one.startswith(name + ".") for one in order)


def _matching(model: nn.Module, patterns: Sequence[str]) -> set[str]:
    chosen: set[str] = set()
    for pattern in patterns:
        found = {
            name
            for name, _ in model.named_parameters()
            if fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, pattern + ".*")
        }
        if not found:
            modules = [
                name for name, module in model.named_modules() if name and any(True for _ in module.parameters())
            ]
            near = difflib.get_close_matches(pattern, modules, n=3, cutoff=0.4) or modules[-3:]
            raise ValueError(f"trainable pattern {pattern!r} fits no parameter. Modules near it: {', '.join(near)}.")
        chosen |= found
    return chosen
