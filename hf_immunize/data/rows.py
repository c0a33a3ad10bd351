"""Rows of a data set, many at once where that gives what its ``__getitem__`` gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset, Subset

__all__ = ["AsWritten", "read_rows"]


def read_rows(source: Any, indices: Sequence[int]) -> Sequence[Any]:
    """Many at once, as PyTorch's own loader reads them, where that cannot pass by what gives a single one.

    PyTorch asks a wrapper that hands on what it does not have itself, or a subclass with a ``__getitem__`` of its own,
    for rows that neither has seen.
    """
    if type(source) is Subset:
        return read_rows(source.dataset, [source.indices[index] for index in indices])
    kinds = type(source).__mro__
    many, one = (
        next((place for place, kind in enumerate(kinds) if name in vars(kind)), len(kinds))
        for name in ("__getitems__", "__getitem__")
    )
    return source.__getitems__(indices) if many < len(kinds) and many <= one else [source[index] for index in indices]


class AsWritten(Dataset):
    """The same rows for a loader of PyTorch, by :func:`read_rows`."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:
        return self.source[index]

    def __getitems__(self, indices: Sequence[int]) -> Sequence[Any]:
        return read_rows(self.source, indices)
