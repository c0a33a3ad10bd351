"""The primary and the harmful stream as one data set, one batch sampler and one collator.

One map-style data set over both sources lets a single DataLoader, and with it accelerate's sharding over processes
and the Trainer's resume in mid-epoch, serve two streams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler, default_collate

from hf_immunize.data.labels import check_labels
from hf_immunize.data.rows import read_rows
from hf_immunize.data.streams import is_stream
from hf_immunize.errors import InputError, InputTypeError
from hf_immunize.models.extraction import MapStyle

__all__ = ["HARMFUL", "PRIMARY", "PairedBatchSampler", "PairedCollator", "PairedDataset", "check_source"]

PRIMARY, HARMFUL = "primary", "harmful"


def check_source(source: Any, name: str) -> None:
    """Raises InputTypeError for what is no data set or stream, InputError for one without rows."""
    if is_stream(source):
        return
    if not hasattr(source, "__len__") or not hasattr(source, "__getitem__"):
        raise InputTypeError(
            f"The {name} data must have a length and be indexed by position, or be an IterableDataset; got "
            f"{type(source).__name__}."
        )
    if len(source) == 0:
        raise InputError(f"The {name} data set is empty. Check its split and its filters.")


class PairedDataset(Dataset):
    """Primary samples first, harmful ones behind them; each item says which it is.

    Args:
        primary: a map-style data set.
        harmful: another one, or None where there is no harmful stream.

    Raises:
        TypeError: a source without a length.
        ValueError: an empty source.
    """

    def __init__(self, primary: MapStyle, harmful: MapStyle | None) -> None:
        check_source(primary, PRIMARY)
        if harmful is not None:
            check_source(harmful, HARMFUL)
        self.primary, self.harmful = primary, harmful

    @property
    def n_primary(self) -> int:
        return len(self.primary)

    @property
    def n_harmful(self) -> int:
        return 0 if self.harmful is None else len(self.harmful)

    def __len__(self) -> int:
        return self.n_primary + self.n_harmful

    def __getitem__(self, index: int) -> tuple[str, Any]:
        if index < self.n_primary:
            return PRIMARY, self.primary[int(index)]
        assert self.harmful is not None, "only a harmful stream has indices behind the primary ones"
        return HARMFUL, self.harmful[int(index) - self.n_primary]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[str, Any]]:
        """Rows of each source at once, where it gives them so, as to any other loader."""
        found: dict[int, tuple[str, Any]] = {}
        for name, source, first, end in (
            (PRIMARY, self.primary, 0, self.n_primary),
            (HARMFUL, self.harmful, self.n_primary, len(self)),
        ):
            places = [place for place, index in enumerate(indices) if first <= index < end]
            if places and source is not None:
                rows = read_rows(source, [int(indices[place]) - first for place in places])
                found |= {place: (name, row) for place, row in zip(places, rows, strict=True)}
        return [found[place] for place in range(len(indices))]

    def set_epoch(self, epoch: int) -> None:
        for source in (self.primary, self.harmful):
            if source is not None and hasattr(source, "set_epoch"):
                source.set_epoch(epoch)


class PairedBatchSampler(Sampler[list[int]]):
    """Batches of ``primary_batch_size`` primary and ``harmful_batch_size`` harmful indices.

    An epoch is one pass over the primary data; the harmful data are reshuffled and taken again when they run out, or
    left over when they are longer. The order depends on ``seed + epoch`` alone, so a resumed run sees the same batches.

    Args:
        dataset: the paired data set.
        primary_batch_size: primary samples a batch (over all processes that share this sampler's batches: each
            process takes every world-size-th batch).
        harmful_batch_size: harmful samples a batch; not used where there is no harmful stream.
        seed: of the order.

    Raises:
        ValueError: fewer primary samples than one batch holds.
    """

    drop_last = True

    def __init__(self, dataset: PairedDataset, primary_batch_size: int, harmful_batch_size: int, seed: int) -> None:
        if dataset.n_primary < primary_batch_size:
            raise InputError(
                f"The primary data set holds {dataset.n_primary} samples, fewer than one batch of "
                f"{primary_batch_size}. Lower per_device_train_batch_size."
            )
        self.dataset = dataset
        self.primary_batch_size = primary_batch_size
        self.harmful_batch_size = harmful_batch_size if dataset.n_harmful else 0
        self.batch_size = self.primary_batch_size + self.harmful_batch_size
        self.seed, self.epoch = seed, 0

    def __len__(self) -> int:
        return self.dataset.n_primary // self.primary_batch_size

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        primary = torch.randperm(self.dataset.n_primary, generator=generator).tolist()
        harmful = self._recycled(generator)
        for batch in range(len(self)):
            start = batch * self.primary_batch_size
            yield primary[start : start + self.primary_batch_size] + [
                next(harmful) for _ in range(self.harmful_batch_size)
            ]

    def _recycled(self, generator: torch.Generator) -> Iterator[int]:
        while True:
            for index in torch.randperm(self.dataset.n_harmful, generator=generator).tolist():
                yield self.dataset.n_primary + index


class PairedCollator:
    """Collates both parts of a batch on their own: ``{"primary": {...}, "harmful": {...}}``.

    Args:
        collate: of one stream, from a list of its samples to a mapping of tensors.
        n_classes: of the head; primary labels outside are refused as they come.
    """

    def __init__(self, collate: Callable[[list[Any]], Any] = default_collate, n_classes: int | None = None) -> None:
        self.collate, self.n_classes = collate, n_classes

    def __call__(self, samples: list[tuple[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = {}
        for stream in (PRIMARY, HARMFUL):
            own = [sample for name, sample in samples if name == stream]
            if own:
                batch[stream] = self.collate(own)
        if self.n_classes is not None and "labels" in batch.get(PRIMARY, ()):
            check_labels(batch[PRIMARY]["labels"], self.n_classes, PRIMARY)
        return batch
