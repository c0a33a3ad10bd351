"""The loader of a training: batches of both tasks, from data sets or from streams."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers.trainer_utils import seed_worker

from hf_immunize.data.streams import is_stream
from hf_immunize.errors import InputError
from hf_immunize.training.arguments import ImmunizationArguments
from hf_immunize.training.pairing import PairedBatchSampler, PairedCollator, PairedDataset
from hf_immunize.training.streaming import PairedStream

__all__ = ["training_loader"]


def training_loader(
    streams: Sequence[Any],
    args: ImmunizationArguments,
    accelerator: Accelerator,
    collate: Callable[[list[Any]], Any],
    n_classes: int | None = None,
) -> DataLoader:
    """One loader over both tasks, a share of it for each process; nothing is dropped or shuffled outside of it.

    Args:
        streams: primary and harmful data of model inputs, or None in place of the latter.
        args: of the run.
        accelerator: of the run.
        collate: of one task, from samples to a batch.
        n_classes: of the head, which every primary label is compared with.

    Raises:
        InputError: fewer batches than processes.
    """
    workers = args.dataloader_num_workers
    options: dict[str, Any] = {
        "collate_fn": PairedCollator(collate, n_classes),
        "num_workers": workers,
        "pin_memory": args.dataloader_pin_memory,
        "persistent_workers": args.dataloader_persistent_workers and workers > 0,
        "prefetch_factor": args.dataloader_prefetch_factor,
        "multiprocessing_context": args.dataloader_multiprocessing_context if workers else None,
        "in_order": args.dataloader_in_order,
        "worker_init_fn": functools.partial(seed_worker, num_workers=workers, rank=args.process_index),
    }
    seed = args.data_seed if args.data_seed is not None else args.seed
    primary, harmful = streams
    sizes = {
        "primary_batch_size": args.per_device_train_batch_size,
        "harmful_batch_size": args.harmful_batch_size,
        "seed": seed,
    }
    if any(map(is_stream, streams)):
        share = {"rank": args.process_index, "world": args.world_size, "buffer_size": args.stream_buffer_size}
        # Whole batches come out, of this process's share: there is nothing for accelerate to divide.
        return DataLoader(PairedStream(primary, harmful, **sizes, **share), batch_size=None, **options)
    paired = PairedDataset(primary, harmful)
    sampler = PairedBatchSampler(paired, **sizes)
    if len(sampler) < args.world_size:
        raise InputError(
            f"{paired.n_primary} primary samples give {len(sampler)} batches of {sampler.primary_batch_size}, fewer "
            f"than the {args.world_size} processes."
        )
    return accelerator.prepare(DataLoader(paired, batch_sampler=sampler, **options))
