"""Activations of whole data sets behind a frozen part, made once for a run or for several: in memory or on disk."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import timm
import torch
import transformers
from filelock import FileLock
from PIL import __version__ as pillow_version
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm.auto import tqdm
from transformers.utils import logging

from hf_immunize.data.collate import collate_images
from hf_immunize.data.fingerprint import pictures_digest
from hf_immunize.data.images import ImageInputs
from hf_immunize.data.rows import AsWritten
from hf_immunize.errors import writing
from hf_immunize.models.activation_files import FolderOfRows, MappedRows, write_rows
from hf_immunize.models.extraction import MapStyle
from hf_immunize.models.frozen_prefix import FrozenPrefix

__all__ = ["MOST_ON_DISK", "ActivationStore", "CachedActivations"]

logger = logging.get_logger(__name__)

#: Bytes of a store that stay in memory.
MOST_IN_MEMORY = 2**30
#: Bytes of all that lies on disk, unless another limit is given.
MOST_ON_DISK = 20 * 10**9


class CachedActivations(Dataset):
    """The prefix's activations of every sample: ``{"activations": (…), "labels": int}``.

    Args:
        prefix: what to run.
        data: a map-style data set of model inputs without randomness.
        batch_size: of the forward passes.
        num_workers: of the loader.
        progress: a label for a progress bar.
        path: of the file to keep them in, which is made if it is not there; in memory if not given.

    Attributes:
        rows: activations by the number of the sample.
        labels: (n,) or None.
    """

    def __init__(
        self,
        prefix: FrozenPrefix,
        data: MapStyle,
        batch_size: int = 64,
        num_workers: int = 0,
        progress: str | None = None,
        path: Path | None = None,
    ) -> None:
        labels: list[torch.Tensor] = []

        def batches() -> Iterator[torch.Tensor]:
            loader = DataLoader(
                AsWritten(data), batch_size=batch_size, collate_fn=collate_images, num_workers=num_workers
            )
            for batch in tqdm(loader, desc=progress, disable=progress is None, leave=False):
                labels.extend([batch["labels"]] if "labels" in batch else [])
                yield prefix(_on_device(prefix, batch)).cpu()

        self.rows: torch.Tensor | MappedRows
        made = path is None or not path.is_file()
        if path is None:
            self.rows = _joined(batches(), len(data))
        else:
            if made:
                write_rows(path, batches(), len(data))
            self.rows = MappedRows(path)
        self.labels = (torch.cat(labels) if labels else None) if made else _labels_without_images(data)

    @property
    def activations(self) -> torch.Tensor:
        """All of them, (n, …), in memory."""
        return self.rows.whole() if isinstance(self.rows, MappedRows) else self.rows

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return 0 if isinstance(self.rows, MappedRows) else self.rows.nbytes

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        item = {"activations": self.rows[index]}
        return item if self.labels is None else item | {"labels": self.labels[index]}


class ActivationStore:
    """Activations of data sets behind frozen parts: each is made once, whoever asks, for a run or for several models.

    Within a store they are known by the frozen part's :meth:`FrozenPrefix.digest` and by the data set itself, which is
    kept with them. What does not fit in memory (1 GiB) lies on disk, in files named by a hash of frozen part, image
    processor and pictures, where later runs find it; that of data sets other than :class:`hf_immunize.ImageInputs`,
    whose content is not known, goes with the store. A process waits for what another one is writing.

    Args:
        most_on_disk: bytes on disk, those of earlier runs included; never more than half of what is free there.
        folder: of the files; among the assets of the Hugging Face cache if not given.
    """

    def __init__(self, most_on_disk: float = MOST_ON_DISK, folder: str | os.PathLike[str] | None = None) -> None:
        self._kept: list[tuple[bytes, Any, CachedActivations]] = []
        self._folder = FolderOfRows(most_on_disk, folder)

    def fits(self, prefix: FrozenPrefix, *sets: MapStyle) -> tuple[bool, str]:
        """Whether there is room for the activations of some data sets, and a sentence with the figures."""
        each, digest, disk = _bytes_an_image(prefix, sets[0]), prefix.digest(), 0
        memory = self._in_memory
        for size in (each * len(data) for data in sets if self._known(digest, data) is None):
            here = memory + size <= MOST_IN_MEMORY
            memory, disk = (memory + size, disk) if here else (memory, disk + size)
        n = sum(map(len, sets))
        told = f"{each / 1e6:.3g} MB an image, {n} images, {each * n / 1e9:.3g} GB of activations"
        if not disk:
            return True, f"{told} in memory"
        limit = self._folder.limit()
        if disk <= limit:
            return True, f"{told}, {disk / 1e9:.3g} GB of it on disk"
        most = MOST_IN_MEMORY / 1e9
        return False, f"{told}, of which {limit / 1e9:.3g} GB may lie on disk and {most:.3g} GB in memory"

    def of(self, prefix: FrozenPrefix, data: MapStyle, **options: Any) -> CachedActivations:
        """The activations of ``data``, made now if they are not there; options are those of CachedActivations.

        Raises:
            OutputError: a file that cannot be written.
        """
        digest = prefix.digest()
        found = self._known(digest, data)
        if found is None:
            size = _bytes_an_image(prefix, data) * len(data)
            if self._in_memory + size <= MOST_IN_MEMORY:
                found = CachedActivations(prefix, data, **options)
            else:
                with writing("The cache of the frozen part", "Make room, or set cache_frozen='off'."):
                    found = self._on_disk(prefix, data, digest, size, options)
            self._kept.append((digest, _source(data), found))
        return found

    @property
    def _in_memory(self) -> int:
        return sum(one.nbytes for *_, one in self._kept)

    def _known(self, digest: bytes, data: MapStyle) -> CachedActivations | None:
        source = _source(data)
        return next((kept for known, one, kept in self._kept if known == digest and _same_rows(one, source)), None)

    def _on_disk(
        self, prefix: FrozenPrefix, data: MapStyle, digest: bytes, size: int, options: dict[str, Any]
    ) -> CachedActivations:
        described = _described(_source(data))
        device = next(prefix.model.parameters()).device.type
        versions = [torch.__version__, transformers.__version__, timm.__version__, pillow_version]
        depends_on = digest + json.dumps([described or uuid.uuid4().hex, device, versions]).encode()
        path = self._folder.path / f"{hashlib.blake2b(depends_on, digest_size=16).hexdigest()}.npy"
        logger.info(f"Activations of the frozen part lie in {path}.")
        with FileLock(path.with_suffix(".lock")):
            if path.is_file() and not _agrees(path, prefix, data):
                logger.warning(f"{path} holds other activations than the model has; they are made again.")
                path.unlink()
            if path.is_file():
                os.utime(path)
            else:
                self._folder.make_room(size)
            found = CachedActivations(prefix, data, **options, path=path)
        if described is None:
            for own in (path, path.with_suffix(".lock")):
                weakref.finalize(found, own.unlink, missing_ok=True)
        return found


def _source(data: Any) -> Any:
    return getattr(data, "source", data)


def _same_rows(one: Any, other: Any) -> bool:
    """One and the same data set, or the same rows of one."""
    if isinstance(one, Subset) and isinstance(other, Subset):
        return one.dataset is other.dataset and list(one.indices) == list(other.indices)
    return one is other


def _joined(batches: Iterator[torch.Tensor], n: int) -> torch.Tensor:
    """In their places one after the other: collected and joined, they would take twice the memory."""
    first = next(batches)
    whole = first.new_empty((n, *first.shape[1:]))
    whole[: len(first)], done = first, len(first)
    for batch in batches:
        whole[done : done + len(batch)] = batch
        done += len(batch)
    return whole


def _described(data: Any) -> list[Any] | None:
    """What the inputs of a data set follow from; None where that is not known, as of other classes than ImageInputs."""
    inputs, rows = (data.dataset, list(data.indices)) if isinstance(data, Subset) else (data, None)
    if type(inputs) is not ImageInputs or not inputs.is_deterministic:
        return None
    processor = inputs.image_processor
    if not hasattr(processor, "to_dict"):
        return None
    pictures = pictures_digest(inputs.data if rows is None else inputs.data.select(rows), inputs.image_column)
    settings = json.dumps(processor.to_dict(), sort_keys=True, default=str)
    return [pictures, f"{type(processor).__module__}.{type(processor).__qualname__}", settings, inputs.n_channels]


def _labels_without_images(data: Any) -> torch.Tensor | None:
    inputs, rows = _source(data), range(len(data))
    if isinstance(inputs, Subset):
        inputs, rows = cast(Any, inputs.dataset), cast(Any, inputs.indices)
    return None if inputs.labels is None else torch.tensor([inputs.labels[row] for row in rows])


def _agrees(path: Path, prefix: FrozenPrefix, data: MapStyle) -> bool:
    """Whether the first and the last row are what the frozen part makes of them: its code may have changed."""
    try:
        kept = MappedRows(path)
    except (ValueError, EOFError):
        return False
    made = prefix(_on_device(prefix, collate_images([data[0], data[len(data) - 1]]))).cpu()
    if kept.shape != (len(data), *made.shape[1:]):
        return False
    return torch.allclose(torch.stack([kept[0], kept[-1]]).to(made.dtype), made, rtol=1e-4, atol=1e-5)


def _bytes_an_image(prefix: FrozenPrefix, data: MapStyle) -> int:
    return prefix(_on_device(prefix, collate_images([data[0]]))).nbytes


def _on_device(prefix: FrozenPrefix, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return batch["pixel_values"].to(next(prefix.model.parameters()).device)
