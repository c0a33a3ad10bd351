"""Reading idx files."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from hf_immunize.data.idx import load_idx_split, read_idx


def write(path, values):
    header = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    path.write_bytes(gzip.compress(header + values.tobytes()))


def test_what_was_written_is_read(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (7, 5, 3)).astype(np.uint8), rng.integers(0, 10, 7).astype(np.uint8)
    write(tmp_path / "t10k-images-idx3-ubyte.gz", images)
    write(tmp_path / "t10k-labels-idx1-ubyte.gz", labels)
    found_images, found_labels = load_idx_split(tmp_path, "t10k")
    assert np.array_equal(found_images, images)
    assert np.array_equal(found_labels, labels)


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte\.gz is not in"):
        load_idx_split(tmp_path, "train")
    (tmp_path / "other.gz").write_bytes(gzip.compress(b"\x00\x00\x0d\x01"))
    with pytest.raises(ValueError, match="no idx file of unsigned bytes"):
        read_idx(tmp_path / "other.gz")
