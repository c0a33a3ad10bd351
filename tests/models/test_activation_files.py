"""Files of rows: whole or not there, and no more of them than a folder may hold."""

from __future__ import annotations

import os
import pickle
import time

import pytest
import torch

from hf_immunize.models.activation_files import FolderOfRows, MappedRows, write_rows


def test_rows_come_back_one_by_one_and_whole(tmp_path):
    rows = torch.randn(7, 2, 3)
    write_rows(tmp_path / "one.npy", rows.split(3), 7)
    found = MappedRows(tmp_path / "one.npy")
    for one in (found, pickle.loads(pickle.dumps(found))):
        assert torch.equal(one.whole(), rows)
        assert torch.equal(one[-2], rows[5])
        assert len(one) == len(list(one)) == 7
    (tmp_path / "one.npy").unlink()
    assert torch.equal(found[3], rows[3]), "open as long as somebody reads"


def test_a_file_is_whole_or_not_there(tmp_path):
    def broken():
        yield torch.zeros(2, 3)
        assert (tmp_path / "one.part").is_file()
        assert not (tmp_path / "one.npy").exists()
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_rows(tmp_path / "one.npy", broken(), 4)
    assert not list(tmp_path.iterdir())
    write_rows(tmp_path / "one.npy", [torch.zeros(2, 300)], 4)
    with pytest.raises(ValueError, match="mmap length"):
        MappedRows(tmp_path / "one.npy")


def test_the_oldest_files_go_and_what_is_being_written_stays(tmp_path):
    now = time.time()
    for name, age in (("old.npy", 50), ("new.npy", 10), ("written.part", 100), ("abandoned.part", 10**6)):
        (tmp_path / name).write_bytes(b"x" * 1_000)
        os.utime(tmp_path / name, (now - age, now - age))
    folder = FolderOfRows(4_500, tmp_path)
    assert folder.limit() == 4_500
    folder.make_room(500)
    assert len(list(tmp_path.iterdir())) == 4
    folder.make_room(2_000)
    assert {one.name for one in tmp_path.iterdir()} == {"new.npy", "written.part"}


def test_where_no_folder_can_be_made_nothing_fits(tmp_path):
    (tmp_path / "file").write_text("")
    assert FolderOfRows(1e9, tmp_path / "file" / "below").limit() == 0
