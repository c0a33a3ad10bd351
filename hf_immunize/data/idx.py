"""MNIST and its kin as the idx files they are published in."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from hf_immunize.errors import InputError, MissingFileError

__all__ = ["load_idx_split", "read_idx"]


def load_idx_split(folder: str | Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 28, 28) and labels (n,) of ``train`` or ``t10k`` from the four ``*-ubyte.gz`` files of a folder.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is not of the idx format.
    """
    folder = Path(folder)
    return read_idx(folder / f"{split}-images-idx3-ubyte.gz"), read_idx(folder / f"{split}-labels-idx1-ubyte.gz")


def read_idx(path: Path) -> np.ndarray:
    """An idx file of unsigned bytes: two zero bytes, type 8, the number of axes, their sizes, the values."""
    if not path.is_file():
        raise MissingFileError(
            f"{path.name} is not in {path.parent}. Expected the four files train-images-idx3-ubyte.gz, "
            "train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz."
        )
    data = gzip.decompress(path.read_bytes())
    if data[:3] != b"\x00\x00\x08":
        raise InputError(f"{path.name} is no idx file of unsigned bytes.")
    sizes = [int.from_bytes(data[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(data[3])]
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(sizes)
