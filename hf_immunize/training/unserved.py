"""Fields of `transformers.TrainingArguments` that an immunization cannot serve, and what to do in place of each."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import torch
from transformers import Trainer, TrainingArguments
from transformers.utils import strtobool

from hf_immunize.errors import InputError

__all__ = ["ACCELERATE_FIELDS", "UNSERVED", "check_numbers", "check_optimizer_arguments", "check_served"]

_ONE_MODEL_A_PROCESS = (
    "Features and θ0 are read off whole weights. Start one process a GPU with torchrun, each with all."
)
_ONE_RATE = "Every layer needs a gradient that is still there when the norm is taken. Take adamw_torch_fused, say."

#: Field → the values of it that are served, and why no other is.
UNSERVED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "auto_find_batch_size": (
        (False,),
        "The regularizers depend on the number of images that they are taken of, which would change in mid run. Set "
        "per_device_train_batch_size, and activation_checkpointing=True to save memory.",
    ),
    "bf16_full_eval": ((False,), "A condition number needs float32. bf16=True trains in mixed precision."),
    "fp16_full_eval": ((False,), "A condition number needs float32. fp16=True trains in mixed precision."),
    "dataloader_drop_last": ((False,), "A batch of a training is always whole here, and an evaluation takes all rows."),
    "deepspeed": ((None, "", False), _ONE_MODEL_A_PROCESS),
    "fsdp": ((None, "", False, []), _ONE_MODEL_A_PROCESS),
    "parallelism_config": ((None,), _ONE_MODEL_A_PROCESS),
    "include_num_input_tokens_seen": (("no", False), "Images have no tokens."),
    "label_names": (
        (None, ["labels"]),
        "Labels stand under 'labels' in a batch. Name the column of a data set by ImageInputs(…, label_column=…).",
    ),
    "neftune_noise_alpha": ((None, 0), "It is noise on the embeddings of a language model."),
    "remove_unused_columns": ((False,), "It would empty the nested batches."),
    "train_sampling_strategy": (
        ("random",),
        "The order of both streams is drawn by data_seed (or seed). Sort or weight the rows of the data set.",
    ),
    "use_liger_kernel": ((False,), "Its kernels are those of language models."),
}

#: Likewise of ``accelerator_config``.
ACCELERATE_FIELDS: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "dispatch_batches": ((None, False), "Each process reads its own images."),
    "even_batches": ((True,), "Every process needs as many batches as the others."),
    "split_batches": (
        (False,),
        "Half a batch would hold one of the two streams alone. per_device_train_batch_size counts by process.",
    ),
}

#: Names of fields, their kind and the least that they may be.
_NUMBERS: tuple[tuple[tuple[str, ...], Any, int], ...] = (
    (("per_device_train_batch_size", "per_device_eval_batch_size", "per_device_harmful_batch_size"), Integral, 1),
    (("gradient_accumulation_steps", "rir_groups", "stream_buffer_size", "stream_samples"), Integral, 1),
    # One sample has κ = 1 always.
    (("rir_group_size", "rir_max_samples"), Integral, 2),
    (("dataloader_num_workers", "seed", "data_seed"), Integral, 0),
    (("max_steps",), Integral, -1),
    (("learning_rate", "weight_decay", "max_grad_norm", "cache_frozen_gb", "warmup_steps", "adam_epsilon"), Real, 0),
)
#: Shares, which are below 1.
_SHARES = ("adam_beta1", "adam_beta2")
#: NumPy takes no larger seed.
_LARGEST_SEED = 2**32 - 1
_OPTIONAL = {"per_device_harmful_batch_size", "data_seed", "max_grad_norm"}
_OPTIMIZERS = {
    "lomo": _ONE_RATE,
    "adalomo": _ONE_RATE,
    "layerwise": _ONE_RATE,
    "schedule_free": "Its weights are others in training than in evaluation. Take adamw_torch_fused and a schedule.",
}


def check_served(args: Any) -> None:
    """Refuses arguments that act through what an immunization does otherwise than the Trainer.

    Args:
        args: training arguments, before or after `transformers` has worked them out.

    Raises:
        InputError: a value that is not served.
    """
    _check(args, UNSERVED, "")
    config = args.accelerator_config
    if config is not None and not isinstance(config, str):
        values = config if isinstance(config, Mapping) else vars(config)
        _check(values, ACCELERATE_FIELDS, "accelerator_config: ")
    optimizer = str(getattr(args.optim, "value", args.optim))
    for part, why in _OPTIMIZERS.items():
        if optimizer.startswith(part) or optimizer.endswith(part):
            raise InputError(f"optim={optimizer!r} is not supported. {why}")
    for launched in ("FSDP", "DEEPSPEED"):
        if strtobool(os.environ.get(f"ACCELERATE_USE_{launched}", "false")):
            raise InputError(f"{launched} was asked for by accelerate launch. {_ONE_MODEL_A_PROCESS}")


def check_numbers(args: Any) -> None:
    """Refuses numbers that are none, or out of their range.

    Raises:
        InputError: with the name, what was given and what is taken.
    """
    for names, kind, least in _NUMBERS:
        for name in names:
            value = getattr(args, name)
            if value is None and name in _OPTIONAL:
                continue
            if isinstance(value, bool) or not isinstance(value, kind) or not math.isfinite(value) or value < least:
                what = "a whole number" if kind is Integral else "a number"
                raise InputError(f"{name} must be {what} of {least} or more, got {value!r}.")
    if args.seed > _LARGEST_SEED:
        raise InputError(f"seed must be {_LARGEST_SEED} or less, got {args.seed}.")
    for name in _SHARES:
        value = getattr(args, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
            raise InputError(f"{name} must be a number from 0 to below 1, got {value!r}.")


def _check(given: Any, table: Mapping[str, tuple[tuple[Any, ...], str]], where: str) -> None:
    for name, (served, why) in table.items():
        value = given.get(name, served[0]) if isinstance(given, Mapping) else getattr(given, name)
        if value not in served:
            raise InputError(f"{where}{name}={value!r} is not supported. {why} Leave it at {served[0]!r}.")


def check_optimizer_arguments(args: TrainingArguments) -> None:
    """Refuses names in ``optim_args`` that the optimizer does not read: it would train by its defaults all the same.

    Raises:
        InputError: no ``name=value``, a name that changes nothing of what the optimizer is made with, or a value that
            PyTorch's own optimizer refuses.
    """
    parts = [part.strip() for part in (args.optim_args or "").split(",") if part.strip()]
    if any("=" not in part for part in parts):
        raise InputError(f"optim_args must be name=value, with commas in between; got {args.optim_args!r}.")

    def made_with(given: str | None) -> Any:
        twin = copy.copy(args)
        twin.optim_args = given
        return Trainer.get_optimizer_cls_and_kwargs(twin)[1]

    unread = []
    for name in (part.partition("=")[0].strip() for part in parts):
        try:
            # No default is so odd a number.
            unread += [] if made_with(f"{name}=0.12345") != made_with(None) else [name]
        except Exception:
            # Read, and no number; or an optimizer that asks for its model, which is not there yet.
            continue
    if unread:
        raise InputError(
            f"The optimizer {getattr(args.optim, 'value', args.optim)!r} reads nothing called {', '.join(unread)} in "
            "optim_args. Those of AdamW are options of their own (adam_beta1, adam_beta2, adam_epsilon, weight_decay)."
        )
    if not parts:
        return
    try:
        kind, options = Trainer.get_optimizer_cls_and_kwargs(args)
        if kind.__module__.startswith("torch.optim"):
            kind([torch.zeros(1, requires_grad=True)], **options)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"The optimizer {getattr(args.optim, 'value', args.optim)!r} does not take "
            f"optim_args={args.optim_args!r}: {error}."
        ) from error
