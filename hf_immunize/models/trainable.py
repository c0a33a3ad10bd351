"""What of a classifier trains, and what stands still meanwhile."""

from __future__ import annotations

import difflib
import fnmatch
import re
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hf_immunize.errors import InputError
from hf_immunize.models.forward import trace, unwrap
from hf_immunize.models.head import Head, find_head

__all__ = ["TrainableSelection", "keep_still", "modules_before_training", "select_trainable"]


@dataclass(frozen=True)
class TrainableSelection:
    """What trains: module names (or patterns), the number of parameters, and of all parameters."""

    modules: tuple[str, ...]
    n_parameters: int
    n_total: int

    def __str__(self) -> str:
        share = 100 * self.n_parameters / self.n_total
        return f"{self.n_parameters:,} of {self.n_total:,} parameters ({share:.1f} %): {', '.join(self.modules)}"


#: Modules that run before anything that trains, by name.
_early: weakref.WeakKeyDictionary[nn.Module, frozenset[str]] = weakref.WeakKeyDictionary()


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
        raise InputError(f"Nothing would train with trainable={selection!r}: no floating-point parameter was chosen.")
    _early[model] = modules_before_training(model, inputs)
    return TrainableSelection(tuple(prefixes), trained, total)


def modules_before_training(model: nn.Module, inputs: torch.Tensor | Mapping[str, Any]) -> frozenset[str]:
    """Names of the modules that start before the first one with trainable parameters, its ancestors left out."""
    _, started, _ = trace(model, inputs)
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


def _last_stage(model: nn.Module, inputs: torch.Tensor | Mapping[str, Any]) -> tuple[list[str], set[str]]:
    _, started, _ = trace(model, inputs)
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
    sequences: list[str] = []
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
        raise InputError(
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
            raise InputError(f"trainable pattern {pattern!r} fits no parameter. Modules near it: {', '.join(near)}.")
        chosen |= found
    return chosen
