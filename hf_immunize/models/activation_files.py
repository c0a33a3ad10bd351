"""Files of rows of numbers, and the folder that holds no more of them than it may.

A file is written beside its place and renamed when it is whole. The ones used longest ago make room for new ones.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import cached_assets_path

__all__ = ["FolderOfRows", "MappedRows", "write_rows"]

#: Seconds after which a file that nobody goes on writing is taken for abandoned.
_ABANDONED = 86_400.0


class MappedRows:
    """Rows (n, …) of a ``.npy`` file; each is mapped when it is read, so that none takes memory.

    Args:
        path: of the file, which may be removed while this object lives.

    Raises:
        ValueError: no whole file of that kind.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        mapped = np.load(path, mmap_mode="r")
        self.shape, self._dtype, self._offset = mapped.shape, mapped.dtype, mapped.offset
        self._file = path.open("rb")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> torch.Tensor:
        return self._read(range(len(self))[index], 1)[0]

    def whole(self) -> torch.Tensor:
        """All rows, in memory."""
        return self._read(0, len(self))

    def _read(self, start: int, n: int) -> torch.Tensor:
        # Mapped anew each time: pages of a mapping that stays would count as this process's memory.
        shape = (n, *self.shape[1:])
        offset = self._offset + start * int(np.prod(shape[1:])) * self._dtype.itemsize
        return torch.from_numpy(np.array(np.memmap(self._file, self._dtype, "r", offset, shape)))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)


def write_rows(path: Path, batches: Iterable[torch.Tensor], n: int) -> None:
    """Writes ``n`` rows that come in batches (·, …) into a ``.npy`` file.

    Raises:
        OSError: it cannot be written.
    """
    part = path.with_suffix(".part")
    try:
        with part.open("wb") as file:
            for number, batch in enumerate(batches):
                array = np.ascontiguousarray(batch.numpy())
                if number == 0:
                    header = {"descr": array.dtype.str, "fortran_order": False, "shape": (n, *array.shape[1:])}
                    np.lib.format.write_array_header_1_0(file, header)
                # Written, not mapped: a full disk is an error then, and not the end of the process.
                file.write(array.data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


class FolderOfRows:
    """A folder of such files.

    Args:
        most: bytes of all files; never more than half of what is free there.
        folder: where; among the assets of the Hugging Face cache if not given.
    """

    def __init__(self, most: float, folder: str | os.PathLike[str] | None = None) -> None:
        self._most, self._given = most, None if folder is None else Path(folder)

    @property
    def path(self) -> Path:
        """The folder, which is made if it is not there."""
        if self._given is None:
            return cached_assets_path("hf_immunize", subfolder="activations")
        self._given.mkdir(parents=True, exist_ok=True)
        return self._given

    def limit(self) -> float:
        """Bytes that files may take in all; what they take already counts as free, since it goes when it must."""
        try:
            free = shutil.disk_usage(self.path).free + sum(size for _, size, _ in self._files())
        except (OSError, ValueError):  # No folder can be made there.
            return 0.0
        return min(self._most, free / 2)

    def make_room(self, size: int) -> None:
        """Removes files until ``size`` bytes more are within the limit."""
        files, limit = self._files(), self.limit()
        left = sum(one for _, one, _ in files) + size
        for used, one, path in files:
            if left <= limit:
                return
            if path.suffix != ".part" or time.time() - used > _ABANDONED:
                path.unlink(missing_ok=True)
                left -= one

    def _files(self) -> list[tuple[float, int, Path]]:
        """When last used, bytes and path of each file, the one used longest ago first."""
        found = []
        for path in (*self.path.glob("*.npy"), *self.path.glob("*.part")):
            try:
                found.append((path.stat().st_mtime, path.stat().st_size, path))
            except FileNotFoundError:  # Another process made room.
                continue
        return sorted(found)
