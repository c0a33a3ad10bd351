"""Activations of whole data sets behind a frozen part, made once for a run or for several models."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm.auto import tqdm

from hf_immunize.data.images import collate_images
from hf_immunize.models.extraction import MapStyle
from hf_immunize.models.frozen_prefix import FrozenPrefix

__all__ = ["ActivationStore", "CachedActivations"]


class CachedActivations(Dataset):
    """The prefix's activations of every sample, in memory: ``{"activations": (…), "labels": int}``.

    Args:
        prefix: what to run.
        data: a map-style data set of model inputs without randomness.
        batch_size: of the forward passes.
        num_workers: of the loader.
        progress: a label for a progress bar.
    """

    def __init__(
        self,
        prefix: FrozenPrefix,
        data: MapStyle,
        batch_size: int = 64,
        num_workers: int = 0,
        progress: str | None = None,
    ) -> None:
        device = next(prefix.model.parameters()).device
        activations, labels = [], []
        rows = cast("Dataset[Any]", data)
        loader = DataLoader(rows, batch_size=batch_size, collate_fn=collate_images, num_workers=num_workers)
        for batch in tqdm(loader, desc=progress, disable=progress is None, leave=False):
            # A copy: what the cut module is given may be a view of something larger.
            activations.append(prefix(batch["pixel_values"].to(device)).to("cpu", copy=True))
            if "labels" in batch:
                labels.append(batch["labels"])
        self.activations = torch.cat(activations)
        self.labels = torch.cat(labels) if labels else None

    def __len__(self) -> int:
        return len(self.activations)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        item = {"activations": self.activations[index]}
        return item if self.labels is None else item | {"labels": self.labels[index]}


class ActivationStore:
    """Activations of data sets behind frozen parts: each is made once, whoever asks, for a run or for several models.

    They are known by the frozen part's :meth:`FrozenPrefix.digest` and by the data set itself, which is kept with them.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[bytes, Any, CachedActivations]] = []

    def of(self, prefix: FrozenPrefix, data: MapStyle, **options: Any) -> CachedActivations:
        """The activations of ``data``, made now if they are not there; options are those of CachedActivations."""
        digest, source = prefix.digest(), getattr(data, "source", data)
        for known, one, cached in self._kept:
            if known == digest and _same_rows(one, source):
                return cached
        self._kept.append((digest, source, CachedActivations(prefix, data, **options)))
        return self._kept[-1][2]


def _same_rows(one: Any, other: Any) -> bool:
    """One and the same data set, or the same rows of one."""
    if isinstance(one, Subset) and isinstance(other, Subset):
        return one.dataset is other.dataset and list(one.indices) == list(other.indices)
    return one is other
