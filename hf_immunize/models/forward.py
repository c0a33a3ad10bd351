"""One forward pass of any classifier, and what ran in it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from transformers.utils import logging

from hf_immunize.errors import InputError, InputTypeError
from hf_immunize.models.copies import copied

__all__ = [
    "ACTIVATIONS",
    "Call",
    "as_weights_are",
    "buffers_kept",
    "check_inputs",
    "evaluating",
    "fast_layout",
    "forward",
    "logits_of",
    "logits_of_two",
    "trace",
    "unwrap",
    "without_autocast",
]

logger = logging.get_logger(__name__)


#: Key of a batch that holds what a model takes in place of images while its frozen part is bypassed.
ACTIVATIONS = "activations"
BY_NAME = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
#: Keys of a batch that are targets, not model inputs.
TARGETS = ("labels", "label", "label_ids")
# Where accelerate keeps the forward that it wraps in autocast.
_OWN_FORWARD = "_original_forward"
#: Inputs that no image becomes here, and what they are; a model that takes one of them needs it.
OTHER_INPUTS = {
    "input_ids": "tokens, of a text or of colours",
    "spatial_shapes": "patches packed from images of any shape (a checkpoint of one resolution does without)",
}


def unwrap(model: nn.Module) -> nn.Module:
    """The module itself, out of DistributedDataParallel and torch.compile.

    Raises:
        TypeError: no module.
        ValueError: ``nn.DataParallel``, whose replicas hide what their layers compute.
    """
    if not isinstance(model, nn.Module):
        hint = (
            f"load_model({model!r}).model"
            if isinstance(model, str)
            else "its .model"
            if hasattr(model, "model")
            else ""
        )
        raise InputTypeError(
            f"A torch module was expected, got {type(model).__name__}. Pass {hint or 'the model itself'}."
        )
    while True:
        if isinstance(model, nn.DataParallel):
            raise InputError("nn.DataParallel is not supported. Start one process a GPU: torchrun --nproc_per_node N …")
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model.get_submodule("_orig_mod")
        else:
            return model


def without_autocast(model: nn.Module) -> nn.Module:
    """The same model, without what `Accelerator.prepare` leaves around its forward for mixed precision, if anything."""
    inner = unwrap(model)
    own = inner.__dict__.pop(_OWN_FORWARD, None)
    if own is not None:
        del inner.forward
        if getattr(own, "__func__", None) is not type(inner).forward:
            inner.forward = own
    return model


@contextmanager
def as_weights_are(model: nn.Module) -> Iterator[None]:
    """The model computes in the precision of its weights within, also in the middle of a training with autocast."""
    inner: Any = unwrap(model)
    wrapped = inner.__dict__.get("forward") if _OWN_FORWARD in inner.__dict__ else None
    if wrapped is not None:
        inner.forward = inner.__dict__[_OWN_FORWARD]
    try:
        yield
    finally:
        if wrapped is not None:
            inner.forward = wrapped


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model is in evaluation mode within, and each module in its own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Buffers are afterwards what they were; those of a spectral norm move with each forward of a training."""
    before = [(one, one.clone()) for one in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for one, value in before:
                one.copy_(value)


def fast_layout(model: nn.Module, run: Callable[[nn.Module], Any]) -> torch.memory_format:
    """Channels last for models with depthwise convolutions, which take half the time in it on a CPU.

    Others gain nothing by it, or lose. Models that ``view`` their activations as one row, or have convolutions of three
    dimensions, cannot run in it. For all of these it is the contiguous layout.

    Args:
        model: any module; it stays as it is.
        run: calls a copy of it once.
    """
    if not any(isinstance(one, nn.Conv2d) and one.groups == one.in_channels > 1 for one in model.modules()):
        return torch.contiguous_format
    ready = copied(model).eval()
    try:
        ready = ready.to(memory_format=torch.channels_last)
        with torch.no_grad():
            run(ready)
    except (RuntimeError, InputError):
        return torch.contiguous_format
    return torch.channels_last


def check_inputs(model: nn.Module, given: Collection[str] = ()) -> None:
    """Refuses a model that takes more than images.

    Args:
        model: any module.
        given: names of the inputs that are there beside the images.

    Raises:
        InputError: it takes tokens or packed patches, and they are not there.
    """
    taken = inspect.signature(unwrap(model).forward).parameters
    for name, what in OTHER_INPUTS.items():
        if name in taken and name not in given:
            raise InputError(
                f"{type(unwrap(model)).__name__} takes {name} ({what}), and only images of shape (n, C, H, W) are "
                "prepared here. Choose a classifier that takes pixel_values alone."
            )


def forward(model: nn.Module, inputs: torch.Tensor | Mapping[str, Any]) -> Any:
    """What the model returns for images (n, C, H, W), or for a mapping of model inputs without its labels.

    What else a mapping holds that the model does not take is left aside with a word, as in the Trainer of transformers.
    """
    inner = unwrap(model)
    taken = inspect.signature(inner.forward).parameters
    # ``forward(self, **inputs)`` takes nothing by place.
    by_name = "pixel_values" in taken or all(one.kind in BY_NAME for one in taken.values())
    if isinstance(inputs, Mapping):
        kept = {
            "pixel_values" if key == ACTIVATIONS else key: value for key, value in inputs.items() if key not in TARGETS
        }
        if by_name and not any(one.kind == one.VAR_KEYWORD for one in taken.values()):
            other = [key for key in kept if key not in taken]
            if other:
                logger.warning_once(f"{type(inner).__name__} does not take {', '.join(other)}: left aside.")
            kept = {key: value for key, value in kept.items() if key in taken}
        if by_name or "pixel_values" not in kept:
            return model(**kept)
        return model(kept["pixel_values"])
    return model(pixel_values=inputs) if by_name else model(inputs)


def logits_of(output: Any, model: nn.Module) -> torch.Tensor:
    """The logits (n, classes) in what a model returned.

    Raises:
        InputError: there are none.
    """
    if isinstance(output, Mapping):
        # Some classifiers call their logits the last hidden state; a backbone's has another width.
        state = output.get("last_hidden_state")
        n_labels = getattr(getattr(model, "config", None), "num_labels", None)
        called_otherwise = isinstance(state, torch.Tensor) and state.ndim == 2 and state.shape[1] == n_labels
        output = output.get("logits", state if called_otherwise else None)
    elif hasattr(output, "logits"):
        output = output.logits
    elif isinstance(output, (tuple, list)):
        rows = [part for part in output if isinstance(part, torch.Tensor) and part.ndim == 2]
        widths = [part.shape[1] for part in rows]
        if len(set(widths)) > 1:
            logger.warning_once(
                f"{type(model).__name__} returns outputs of the widths {', '.join(map(str, widths))}: took the first, "
                f"of {widths[0]}, for its logits. If it is an embedding, return the logits first, or under 'logits'."
            )
        output = rows[0] if rows else None
    if not isinstance(output, torch.Tensor) or output.ndim != 2:
        raise InputError(
            f"{type(model).__name__} gives no logits of shape (n, classes): it has no classification head. Load it "
            "with AutoModelForImageClassification or timm.create_model(..., num_classes=N), or let immunize(..., "
            "new_head=True, fit_steps=300) give it one."
        )
    return output


@dataclass(eq=False)
class Call:
    """A finished call of a module, with its first input and its output where they are tensors."""

    name: str
    module: nn.Module
    input: torch.Tensor | None
    output: torch.Tensor | None


def trace(model: nn.Module, inputs: torch.Tensor | Mapping[str, Any]) -> tuple[list[Call], list[str], torch.Tensor]:
    """One evaluation-mode forward of two samples: finished calls of leaf modules, modules as they started, logits.

    Raises:
        InputError: the model does not run on these inputs, or gives no logits.
    """
    calls: list[Call] = []
    started: list[str] = []

    def before(name: str) -> Any:
        return lambda *_: started.append(name)

    def after(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            first = next((part for part in args if isinstance(part, torch.Tensor)), None)
            calls.append(Call(name, module, first, output if isinstance(output, torch.Tensor) else None))

        return hook

    with ExitStack() as hooks, torch.no_grad():
        for name, module in model.named_modules():
            # What makes the weight of a parametrised layer (weight norm) is a part of that layer, not one beside it.
            if "parametrizations" in name.split("."):
                continue
            hooks.enter_context(module.register_forward_pre_hook(before(name)))
            if next(module.children(), None) is None or is_parametrized(module):
                hooks.enter_context(module.register_forward_hook(after(name)))
        return calls, started, logits_of_two(model, inputs)


def logits_of_two(model: nn.Module, inputs: torch.Tensor | Mapping[str, Any]) -> torch.Tensor:
    """The logits of the first two samples in evaluation mode.

    Raises:
        InputError: the model takes more than images, does not run on these, or gives no logits.
    """
    check_inputs(model, inputs.keys() if isinstance(inputs, Mapping) else ())
    if isinstance(inputs, Mapping):
        few: Any = {key: one[:2] if isinstance(one, torch.Tensor) and one.ndim else one for key, one in inputs.items()}
    else:
        few = inputs[:2]
    try:
        with evaluating(model):
            output = forward(model, few)
    except torch.OutOfMemoryError:
        raise
    except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        images = few.get("pixel_values") if isinstance(few, dict) else few
        shape = f" of shape {tuple(images.shape)}" if isinstance(images, torch.Tensor) else ""
        raise InputError(
            f"{type(model).__name__} does not run on images{shape}: {error} Prepare them with the model's own image "
            "processor; many models take one size and number of channels alone."
        ) from error
    return logits_of(output, model)
