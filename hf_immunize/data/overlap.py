"""Pictures to measure on that are among those to train on: what is found on them flatters."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import ConcatDataset, Subset

from hf_immunize.data.columns import choose_columns
from hf_immunize.data.draw import drawn_numbers
from hf_immunize.data.fingerprint import file_of, path_of
from hf_immunize.data.images import ImageInputs, undecoded
from hf_immunize.data.streams import is_stream
from hf_immunize.errors import InputError

__all__ = ["MOST_COMPARED", "Overlap", "check_apart", "overlap"]

#: Rows of a data set whose pictures are compared with another's; of more rows so many are drawn, by seed 0.
MOST_COMPARED = 5_000
_AT_ONCE = 64


@dataclass(frozen=True)
class Overlap:
    """Pictures that two data sets share.

    Attributes:
        shared: how many of the rows of one that were looked at hold a picture of the other.
        first: the first of these.
        looked_at: rows of the one and of the other that were compared.
        rows: how many each has.
    """

    shared: int
    first: int
    looked_at: tuple[int, int]
    rows: tuple[int, int]

    @property
    def is_whole(self) -> bool:
        """Whether each row that was looked at is shared."""
        return self.shared == self.looked_at[0]

    def told(self, one: str, other: str) -> str:
        """The beginning of a sentence about the rows ``one`` and ``other``, as ``"to measure on"``."""
        bound = f" (of {self.rows[0]:,}, drawn by seed 0)" if self.looked_at[0] < self.rows[0] else ""
        those = f"{self.looked_at[1]:,} of the {self.rows[1]:,}" if self.looked_at[1] < self.rows[1] else "those"
        count = f"{self.shared:,} of {self.looked_at[0]:,}"
        return f"{count} pictures {one}{bound} are among {those} {other}, row {self.first} first"


def overlap(one: Any, other: Any) -> Overlap | None:
    """How many of the pictures of one data set another holds too.

    Pictures are the same where their files are, byte for byte; nothing is decoded, no file on disk is read whose size
    the other side does not have too, and of more than 5,000 rows so many are drawn. Tensors in lists and columns count
    by their numbers, rows of any other data set by their place in it: nothing is run for this.

    Args:
        one: model inputs, rows of pictures, or parts of such (`Subset`, `ConcatDataset`).
        other: likewise.

    Returns:
        None where nothing is shared, or one of the two is a stream or missing.
    """
    if one is None or other is None or is_stream(one) or is_stream(other):
        return None
    rows = len(one), len(other)
    first, second = (list(_contents(data, drawn_numbers(len(data), MOST_COMPARED))) for data in (one, other))
    sizes = {size for _, size, _ in first} & {size for _, size, _ in second}
    known = {content() for _, size, content in second if size in sizes}
    shared = [row for row, size, content in first if size in sizes and content() in known]
    return Overlap(len(shared), min(shared), (len(first), len(second)), rows) if shared else None


def check_apart(train: Any, evaluation: Any, name: str) -> str | None:
    """Whether rows to measure on were trained on: refused where all of them were, a sentence where some were.

    Args:
        train: as :func:`overlap` takes it.
        evaluation: likewise.
        name: of the data, for the message.

    Raises:
        InputError: every row to measure on that was looked at is among those to train on.
    """
    found = overlap(evaluation, train)
    if found is None:
        return None
    told = found.told("to measure on", "to train on")
    if found.is_whole:
        raise InputError(
            f"The {name} data to train on and to measure on are the same rows ({told}): what was fitted to them would "
            "be judged on them. Hold some out, or name another split."
        )
    return f"{told}: figures on them flatter"


#: A row, the size of its picture, and what tells the picture, which may have to be read.
_Content = tuple[int, int, Callable[[], Hashable]]


def _contents(data: Any, rows: np.ndarray, named: np.ndarray | None = None) -> Iterator[_Content]:
    """Of some rows of data of any kind; ``named`` is what the rows are called outside."""
    named = rows if named is None else named
    if isinstance(data, Subset):
        yield from _contents(data.dataset, np.asarray(data.indices)[rows], named)
    elif isinstance(data, ConcatDataset):
        starts = [0, *data.cumulative_sizes]
        for part, low, high in zip(data.datasets, starts, starts[1:], strict=False):
            inside = (low <= rows) & (rows < high)
            yield from _contents(part, rows[inside] - low, named[inside])
    elif (column := _picture_column(data)) is not None:
        stored = data.data if isinstance(data, ImageInputs) else data
        kept = undecoded(stored.with_format(None).select(rows), column)
        # Pictures that lie in the table itself: a few in memory at a time.
        pictures = (picture for batch in kept.iter(_AT_ONCE) for picture in batch[column])
        for row, picture in zip(named.tolist(), pictures, strict=True):
            yield from _content(row, picture)
    else:
        for row, index in zip(named.tolist(), rows.tolist(), strict=True):
            tensor = _tensor(data, index)
            yield (row, 0, partial(tuple, (id(data), index))) if tensor is None else _told(row, tensor)


def _content(row: int, picture: Any) -> Iterator[_Content]:
    """Of one picture; nothing of a file that is not there."""
    path = path_of(picture)
    if path is None:
        content = file_of(picture)
        yield _told(row, _numbers(picture) if content is None else content)
    elif os.path.isfile(path):
        yield row, os.path.getsize(path), lambda: _digest(file_of(picture) or b"")


def _told(row: int, content: bytes) -> _Content:
    return row, len(content), partial(bytes, _digest(content))


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _picture_column(data: Any) -> str | None:
    if isinstance(data, ImageInputs):
        return data.image_column
    if not isinstance(data, Dataset):
        return None
    try:
        return choose_columns(data, labels="unused").image
    except InputError:
        return None


def _numbers(picture: Any) -> bytes:
    """A picture that lies in no file here: its pixels, or the address that it comes from."""
    if isinstance(picture, (str, dict)):
        return str(picture).encode()
    # Tensors may have a gradient, and kinds of numbers that numpy does not know.
    values = picture.detach().cpu().double().numpy() if isinstance(picture, torch.Tensor) else np.asarray(picture)
    return f"{values.dtype} {values.shape}".encode() + values.tobytes()


def _tensor(data: Any, index: int) -> bytes | None:
    """What a row holds that is a tensor already."""
    if isinstance(data, Dataset) and "pixel_values" in data.column_names:
        return _numbers(data.with_format("numpy")[index]["pixel_values"])
    row = data[index] if isinstance(data, (list, tuple)) else None
    return _numbers(row["pixel_values"]) if isinstance(row, Mapping) and "pixel_values" in row else None
