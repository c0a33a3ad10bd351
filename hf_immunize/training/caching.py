"""Whether the frozen part runs once for a whole training, and the data sets that it then runs on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers.utils import logging

from hf_immunize.data.random_numbers import undisturbed_random_numbers
from hf_immunize.data.streams import is_stream
from hf_immunize.errors import InputError, OutputError
from hf_immunize.models.activations import ActivationStore
from hf_immunize.models.forward import unwrap
from hf_immunize.models.frozen_prefix import FrozenPrefix
from hf_immunize.training.arguments import ImmunizationArguments

__all__ = ["cached_streams"]

logger = logging.get_logger(__name__)


@undisturbed_random_numbers()
def cached_streams(
    model: nn.Module,
    streams: Sequence[Any],
    sample: Mapping[str, Any],
    args: ImmunizationArguments,
    store: ActivationStore,
    *,
    own_collator: bool = False,
) -> tuple[FrozenPrefix | None, list[Any], str]:
    """The primary and the harmful stream (or None) as a training reads them.

    Under ``cache_frozen="auto"`` activations take the place of images where they are the same each time (rows of a
    data set and an image processor, no transform of one's own), where an image is read more than once, and where there
    is room for them in memory or on disk.

    Args:
        model: the classifier, its trainable parameters chosen.
        streams: data sets of model inputs, or None.
        sample: a batch to split the model with.
        args: of the run.
        store: of activations that are there already.
        own_collator: whether a collator of the user's stands between samples and batches.

    Returns:
        the split model or None, the streams, and a sentence that says which and why.

    Raises:
        InputError: ``cache_frozen="on"`` where the model cannot be split or there is no room, or with a stream.
        OutputError: ``cache_frozen="on"`` where the cache cannot be written.
    """
    reason = _reason_against(model, streams, sample, args, own_collator)
    if reason is not None:
        return None, list(streams), f"Frozen part with every step: {reason}."
    given = [one for one in streams if one is not None]
    label = None if args.disable_tqdm else "frozen part"
    options = {"batch_size": args.per_device_eval_batch_size, "num_workers": args.dataloader_num_workers}
    try:
        prefix = FrozenPrefix(model, sample)
        fits, told = store.fits(prefix, *given)
        if not fits:
            raise InputError(f"{told}. Raise cache_frozen_gb (--cache_frozen_gb) where there is room.")
    except InputError as error:
        if args.cache_frozen == "on":
            raise
        return None, list(streams), f"Frozen part with every step: {error}"
    try:
        cached = [None if one is None else store.of(prefix, one, progress=label, **options) for one in streams]
    except OutputError as error:
        if args.cache_frozen == "on":
            raise
        logger.warning(f"Frozen part with every step: {error}")
        return None, list(streams), "Frozen part with every step: its activations could not be written."
    return prefix, cached, f"Frozen part run once for each image: {told}."


def _reads_alike(data: Any) -> bool:
    """Whether a row gives the same image whatever is drawn meanwhile."""
    read = []
    for seed in range(4):
        with undisturbed_random_numbers(seed):
            read.append(data[0]["pixel_values"])
    return all(torch.equal(read[0], one) for one in read[1:])


def _reason_against(
    model: nn.Module, streams: Sequence[Any], sample: Mapping[str, Any], args: ImmunizationArguments, own_collator: bool
) -> str | None:
    if args.cache_frozen == "off":
        return "cache_frozen is off"
    if any(map(is_stream, streams)):
        if args.cache_frozen == "on":
            raise InputError("cache_frozen='on' is for data sets: a stream has no rows to keep. Leave it at 'auto'.")
        return "a stream is read as it comes"
    if args.torch_compile or hasattr(model, "_orig_mod") or args.fsdp or args.deepspeed:
        return "the model is compiled or sharded over devices"
    if next(unwrap(model).parameters()).dtype != torch.float32:
        return "the model is not in float32"
    if args.activation_checkpointing or args.gradient_checkpointing or getattr(model, "grad_checkpointing", False):
        return "activation checkpointing runs parts of the model again"
    if own_collator:
        if args.cache_frozen == "on":
            raise InputError(
                "cache_frozen='on' keeps what each image becomes by itself, and a data_collator of your own makes "
                "batches otherwise. Leave one of the two away."
            )
        return "a data_collator of your own makes the batches"
    if args.cache_frozen == "on":
        return None
    given = [one for one in streams if one is not None]
    if not all("is_deterministic" in vars(type(one)) and one.is_deterministic for one in given):
        return "images may be augmented on their way (cache_frozen='on' if they are not)"
    if not all(map(_reads_alike, given)):
        return "a row that is read again gives another image (an image processor that draws random numbers, say)"
    sizes = (args.per_device_train_batch_size, args.harmful_batch_size)
    lengths = [0 if one is None else len(one) for one in streams]
    steps = args.max_steps * args.gradient_accumulation_steps
    if args.max_steps < 0:
        steps = math.ceil(args.num_train_epochs or 0) * (lengths[0] // (sizes[0] * args.world_size))
    reads = sum(steps * size for size, length in zip(sizes, lengths, strict=True) if length)
    if reads < sum(lengths):
        return f"{reads} images are read of {sum(lengths)}, each about once"
    return None
