"""Both streams of a training where one of them at least has no end that is known: batches, and the loader of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from hf_immunize.data.streams import BUFFER_SIZE, StreamedInputs, is_stream
from hf_immunize.errors import InputError
from hf_immunize.training.pairing import HARMFUL, PRIMARY

__all__ = ["PairedStream"]


class PairedStream(IterableDataset):
    """Batches of primary and harmful samples without an end, each sample with the name of its task.

    A task that runs out begins anew, shuffled otherwise. The order depends on the seed and the numbers of processes and
    workers alone, so that a resumed run, which reads on behind what it has seen, sees the same batches.

    Args:
        primary: a stream or a data set of model inputs.
        harmful: likewise, or None.
        primary_batch_size: primary samples a batch.
        harmful_batch_size: harmful samples a batch.
        seed: of the order.
        rank: of this process; each reads a share of its own.
        world: how many processes there are.
        buffer_size: rows among which a stream of `datasets` is shuffled. One of `torch` keeps its order.
    """

    def __init__(
        self,
        primary: Any,
        harmful: Any | None,
        *,
        primary_batch_size: int,
        harmful_batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        buffer_size: int = BUFFER_SIZE,
    ) -> None:
        self.sources = {PRIMARY: primary} | ({} if harmful is None else {HARMFUL: harmful})
        self.sizes = {PRIMARY: primary_batch_size, HARMFUL: harmful_batch_size}
        self.seed, self.rank, self.world, self.buffer_size = seed, rank, world, buffer_size

    def __iter__(self) -> Iterator[list[tuple[str, Any]]]:
        endless = {name: self._endless(name) for name in self.sources}
        while True:
            yield [(name, next(rows)) for name, rows in endless.items() for _ in range(self.sizes[name])]

    def _endless(self, name: str) -> Iterator[Any]:
        for number in itertools.count():
            rows = self._one_pass(self.sources[name], number)
            first = next(rows, None)
            if first is None:
                raise InputError(
                    f"The {name} data have no row for each reader. Check their split and filters, or start fewer "
                    "processes and workers."
                )
            yield first
            yield from rows

    def _one_pass(self, source: Any, number: int) -> Iterator[Any]:
        worker = get_worker_info()
        rank, world = self.rank, self.world
        if worker is not None and (isinstance(source, StreamedInputs) or not is_stream(source)):
            # A stream of torch divides itself among workers, or does not: that is the user's.
            rank, world = rank * worker.num_workers + worker.id, world * worker.num_workers
        if isinstance(source, StreamedInputs):
            yield from source.one_pass(number, seed=self.seed, rank=rank, world=world, buffer_size=self.buffer_size)
        elif is_stream(source):
            if hasattr(source, "set_epoch"):
                source.set_epoch(number)
            yield from itertools.islice(iter(source), rank, None, world)
        else:
            order = torch.randperm(len(source), generator=torch.Generator().manual_seed(self.seed + number))
            yield from (source[index] for index in order[rank::world].tolist())
