"""What of a classifier trains, and what stands still meanwhile."""

from __future__ import annotations

import difflib
import fnmatch
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from hf_immunize.errors import InputError
from hf_immunize.models.forward import trace, unwrap
from hf_immunize.models.last_stage import last_stage

__all__ = [
    "TrainableSelection",
    "batch_norms_behind",
    "blocks_that_train",
    "buffers_behind",
    "keep_still",
    "modules_before_training",
    "select_trainable",
]


@dataclass(frozen=True)
class TrainableSelection:
    """What trains: module names (or patterns), the number of parameters, of all parameters, and of those frozen before.

    ``n_thawed`` counts parameters that stood still (``requires_grad=False``) until they were chosen.
    """

    modules: tuple[str, ...]
    n_parameters: int
    n_total: int
    n_thawed: int = field(default=0, compare=False)

    def __str__(self) -> str:
        share = 100 * self.n_parameters / self.n_total
        thawed = f" ({self.n_thawed:,} of them were frozen before: trainable=… decides)" if self.n_thawed else ""
        return (
            f"{self.n_parameters:,} of {self.n_total:,} parameters ({share:.1f} %): {', '.join(self.modules)}{thawed}"
        )


#: Modules that run before anything that trains, by name.
_early: weakref.WeakKeyDictionary[nn.Module, frozenset[str]] = weakref.WeakKeyDictionary()


def select_trainable(
    model: nn.Module, selection: str | Sequence[str], inputs: torch.Tensor | Mapping[str, Any]
) -> TrainableSelection:
    """Sets ``requires_grad`` of every parameter.

    Args:
        model: the classifier.
        selection: ``"last"`` (the last stage or block, all that runs after it, and the head, as in the paper's
            section 5.3; without stages and blocks the last layer before the head), ``"all"``, or names or patterns of
            modules (``["layer4", "*.norm", "fc"]``).
        inputs: a batch, for finding out what runs last.

    Raises:
        ValueError: a pattern that fits no parameter (with the nearest module), weights that are shared between what
            trains and what does not, or a model of which ``"last"`` would leave nothing frozen.
    """
    model = unwrap(model)
    if selection == "all":
        prefixes, chosen = ["all"], {name for name, _ in model.named_parameters(remove_duplicate=False)}
    elif selection == "last":
        prefixes, chosen = last_stage(model, inputs)
    else:
        patterns = [selection] if isinstance(selection, str) else list(selection)
        prefixes, chosen = patterns, _matching(model, patterns)
    _check_shared(model, chosen, selection)
    total = trained = thawed = 0
    for name, parameter in model.named_parameters():
        was_frozen = not parameter.requires_grad
        parameter.requires_grad_(name in chosen and parameter.is_floating_point())
        total += parameter.numel()
        trained += parameter.numel() if parameter.requires_grad else 0
        thawed += parameter.numel() if parameter.requires_grad and was_frozen else 0
    if trained == 0:
        raise InputError(f"Nothing would train with trainable={selection!r}: no floating-point parameter was chosen.")
    _early[model] = modules_before_training(model, inputs)
    return TrainableSelection(tuple(prefixes), trained, total, thawed)


def _check_shared(model: nn.Module, chosen: set[str], selection: str | Sequence[str]) -> None:
    """Refuses weights of several names of which some were chosen: they cannot both train and stay as they are."""
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    for own in names.values():
        inside, outside = [one for one in own if one in chosen], [one for one in own if one not in chosen]
        if inside and outside:
            raise InputError(
                f"{inside[0]} and {outside[0]} are one and the same weights, and trainable={selection!r} chooses the "
                "first alone. Name both, or neither: trainable=[…]."
            )


def modules_before_training(model: nn.Module, inputs: torch.Tensor | Mapping[str, Any]) -> frozenset[str]:
    """Names of the modules that start before the first one with trainable parameters, its ancestors left out."""
    _, started, _ = trace(model, inputs)
    trained = {name.rpartition(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    first = next((position for position, name in enumerate(started) if name in trained), len(started))
    ancestors = {name[:end] for name in trained for end in _ends(name)}
    return frozenset(started[:first]) - ancestors - frozenset(started[first:])


def batch_norms_behind(model: nn.Module) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    """The BatchNorms with statistics that what was chosen to train can change the inputs of, by every name."""
    inner = unwrap(model)
    early = {inner.get_submodule(name) for name in _early.get(inner, frozenset())}
    return {
        name: module
        for name, module in inner.named_modules(remove_duplicate=False)
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats and module not in early
    }


def buffers_behind(model: nn.Module) -> set[str]:
    """Buffers of a state dict that a training may move, by every name.

    They are those of what runs no earlier than what trains. BatchNorms stand still; vectors of spectral norms,
    statistics of InstanceNorms and buffers of a user's own do not.
    """
    inner = unwrap(model)
    early = {inner.get_submodule(name) for name in _early.get(inner, frozenset())}
    return {
        f"{name}.{own}".removeprefix(".")
        for name, module in inner.named_modules(remove_duplicate=False)
        if module not in early and not isinstance(module, nn.modules.batchnorm._BatchNorm)
        for own, _ in module.named_buffers(recurse=False)
        # Others are made with the model, and no weights are loaded into them.
        if own not in module._non_persistent_buffers_set
    }


def blocks_that_train(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Modules with weights that train, by name: the members of every sequence of blocks, and what stands beside one."""
    for name, child in model.named_children():
        if any(one.requires_grad for one in child.parameters()):
            if any(_is_sequence_of_blocks(one) for one in child.modules()):
                yield from blocks_that_train(child, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", child


def _is_sequence_of_blocks(module: nn.Module) -> bool:
    made_of_layers = [one for one in module.children() if next(one.children(), None) is not None]
    return isinstance(module, (nn.Sequential, nn.ModuleList)) and len(made_of_layers) > 1


def keep_still(model: nn.Module) -> None:
    """Puts every BatchNorm, and all that stands before or outside the trainable part, in evaluation mode.

    Running statistics and the dropout of frozen parts then do not move; call it after each ``model.train()``.
    """
    inner = unwrap(model)
    for module in _still_modules(inner, _early.get(inner, frozenset())):
        module.training = False


def _still_modules(model: nn.Module, early: frozenset[str]) -> Iterator[nn.Module]:
    parents: dict[bool, set[str]] = {True: set(), False: set()}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        parents[parameter.requires_grad].add(name.rpartition(".")[0])
    trained, frozen = ({name[:end] for name in parents[one] for end in _ends(name)} for one in (True, False))
    for name, module in model.named_modules():
        in_frozen = any(name[:end] in frozen and name[:end] not in trained for end in _ends(name) if end)
        if isinstance(module, nn.modules.batchnorm._BatchNorm) or in_frozen or name in early:
            yield module


def _ends(name: str) -> list[int]:
    """Where each dotted ancestor of ``name`` ends, the name itself and the root ("") included."""
    return [0, *(position for position, sign in enumerate(name) if sign == "."), len(name)]


def _matching(model: nn.Module, patterns: Sequence[str]) -> set[str]:
    chosen: set[str] = set()
    for pattern in patterns:
        found = {
            name
            for name, _ in model.named_parameters(remove_duplicate=False)
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
