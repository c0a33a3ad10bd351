"""The last stage of any classifier, by when its modules run: what of it trains unless something else is named.

No name is known here: blocks are told by how modules stand beside each other, and the last one by the clock.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from hf_immunize.errors import InputError
from hf_immunize.models.forward import logits_of_two, trace
from hf_immunize.models.head import Head, find_head

__all__ = ["last_stage"]


def last_stage(model: nn.Module, inputs: torch.Tensor | Mapping[str, Any]) -> tuple[list[str], set[str]]:
    """The last stage or block, all that begins to run after it, and the head; of these, what the logits depend on.

    Args:
        model: the classifier, unwrapped.
        inputs: a batch, for finding out what runs when.

    Returns:
        names of its modules, in the order in which they run, and names of all its parameters.

    Raises:
        InputError: nothing would be left that stays as it is.
    """
    _, started, _ = trace(model, inputs)
    order = {name: position for position, name in reversed(list(enumerate(started)))}
    head = find_head(model, inputs)
    block = _last_block(model, order, head)
    begin = min(_runs(block, order))
    late = {name for name, position in order.items() if position >= begin} | set(head.names)
    # A part that its parent uses without calling it (nn.MultiheadAttention's out_proj) runs when the parent does.
    late |= {
        name
        for name, _ in model.named_modules()
        if name not in order and next((one for one in _parents(name) if one in order), "") in late
    }
    modules = {model.get_submodule(name) for name in late}
    chosen = {
        f"{name}.{own}" if name else own
        for name, module in model.named_modules(remove_duplicate=False)
        if module in modules
        for own, _ in module.named_parameters(recurse=False, remove_duplicate=False)
    }
    if all(name in chosen for name, one in model.named_parameters() if one.is_floating_point()):
        raise InputError(_nothing_before(model, head))
    chosen &= _used(model, inputs, chosen)
    # A late module may be a container that ran late; its children count only if they ran late too.
    tops = [name for name in late if name and not any(name.startswith(other + ".") for other in late if other)]
    with_parameters = [name for name in tops if any(one.startswith(name + ".") for one in chosen)]
    return sorted(with_parameters, key=lambda name: order.get(name, len(order))), chosen


def _used(model: nn.Module, inputs: torch.Tensor | Mapping[str, Any], names: set[str]) -> set[str]:
    """Those of the parameters on which the logits depend: some layers run, and nothing reads what they give."""
    own = {name: one for name, one in model.named_parameters(remove_duplicate=False) if name in names}
    trained = {name: one.requires_grad for name, one in own.items()}
    floating = {name: one for name, one in own.items() if one.is_floating_point()}
    try:
        for one in floating.values():
            one.requires_grad_(True)
        with torch.enable_grad():
            logits = logits_of_two(model, inputs).sum()
        found = torch.autograd.grad(logits, list(floating.values()), allow_unused=True)
    finally:
        for name, one in own.items():
            one.requires_grad_(trained[name])
    return {name for name, gradient in zip(floating, found, strict=True) if gradient is not None}


def _last_block(model: nn.Module, order: Mapping[str, int], head: Head) -> str:
    """The last stage or block; of a model without any, its last layer with a matrix of weights before the head.

    From the model inwards: the part in which most modules run, until half of what runs in it are blocks.
    """
    name = ""
    while True:
        parts = _parts(model, name, order)
        blocks = _blocks(model, name, parts, order, head)
        if 2 * sum(len(_runs(block, order)) for block in blocks) > len(_runs(name, order)):
            return max(blocks, key=lambda block: max(_runs(block, order)))
        if not parts:
            break
        name = max(parts, key=lambda part: len(_runs(part, order)))
    layers = [
        one for one in order if one not in head.names and any(own.ndim > 1 for own in _own(model.get_submodule(one)))
    ]
    if not layers:
        raise InputError(_nothing_before(model, head))
    return max(layers, key=lambda one: order[one])


def _own(layer: nn.Module) -> Iterable[nn.Parameter]:
    """The parameters of a layer itself; of a parametrised one (weight norm) what makes its weight."""
    return layer.parameters(recurse=is_parametrized(layer))


def _blocks(model: nn.Module, name: str, parts: list[str], order: Mapping[str, int], head: Head) -> list[str]:
    """The blocks or stages among the parts of a module: made of layers, and without the head.

    They are the members of a list, or parts of one class that run one right after another. Lists whose names differ in
    a number alone (``layer1``, ``layer2``) are stages themselves; lists of bare layers are so only where there is
    nothing else (``conv1`` and ``conv5`` of ShuffleNet stand around its stages).
    """

    def is_list(one: str) -> bool:
        return isinstance(model.get_submodule(one), (nn.ModuleList, nn.Sequential))

    def kind(one: str) -> Any:
        return re.sub(r"\d+", "", one) if is_list(one) else type(model.get_submodule(one))

    found: list[str] = []
    of_layers: list[str] = []
    if is_list(name):
        found = parts
    else:
        lists = [part for part in parts if is_list(part) and not _holds(part, head)]
        for _, family in itertools.groupby(sorted(lists, key=kind), key=kind):
            alike = list(family)
            if len(alike) == 1:
                found += _parts(model, alike[0], order)
            elif any(
                next(part.children(), None) is not None for one in alike for part in model.get_submodule(one).children()
            ):
                found += alike
            else:
                of_layers += alike
        for _, run in itertools.groupby(parts, key=kind):
            alike = [part for part in run if not is_list(part)]
            found += alike if len(alike) > 1 else []
    for some in (found, of_layers):
        blocks = [one for one in some if not _holds(one, head) and _is_made_of_layers(model.get_submodule(one))]
        if blocks:
            return blocks
    return []


def _parts(model: nn.Module, name: str, order: Mapping[str, int]) -> list[str]:
    """Children with parameters that run, by their names in the model, in the order in which they begin."""
    prefix = f"{name}." if name else ""
    children = [
        f"{prefix}{own}"
        for own, part in model.get_submodule(name).named_children()
        if next(part.parameters(), None) is not None
    ]
    return sorted((one for one in children if _runs(one, order)), key=lambda one: min(_runs(one, order)))


def _runs(name: str, order: Mapping[str, int]) -> list[int]:
    """When a module and what it holds begin to run."""
    return [at for one, at in order.items() if not name or one == name or one.startswith(name + ".")]


def _holds(name: str, head: Head) -> bool:
    return any(own == name or own.startswith(name + ".") for own in head.names)


def _is_made_of_layers(module: nn.Module) -> bool:
    return any(one.ndim > 1 for part in module.children() for one in part.parameters())


def _nothing_before(model: nn.Module, head: Head) -> str:
    return (
        f"{type(model).__name__} has nothing before its last block that would stay as it is, so that trainable='last' "
        f"would be everything or the head alone. Name what trains: trainable=['{head.names[0]}', …] or trainable='all'."
    )


def _parents(name: str) -> list[str]:
    """The dotted ancestors of ``name``, the nearest first."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]
