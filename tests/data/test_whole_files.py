from __future__ import annotations

import os
import stat

import pytest

from hf_immunize.data.whole_files import whole_file


def test_the_file_is_there_when_all_is_written_and_its_folder_with_it(tmp_path):
    path = tmp_path / "new" / "values.json"
    with whole_file(path) as unfinished:
        unfinished.write_text("{")
        assert not path.exists()
        assert unfinished.suffix == path.suffix
        unfinished.write_text("{}")
    assert path.read_text() == "{}"
    assert os.listdir(path.parent) == ["values.json"]


def test_what_fails_leaves_the_file_that_was_there(tmp_path):
    path = tmp_path / "values.json"
    path.write_text("old")

    def half() -> None:
        with whole_file(path) as unfinished:
            unfinished.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["values.json"]


def test_what_a_kill_left_is_written_over(tmp_path):
    path = tmp_path / "values.json"
    with whole_file(path) as unfinished:
        left = unfinished
        unfinished.write_text("first")
    left.write_text("half of a killed run, and longer")
    with whole_file(path) as unfinished:
        unfinished.write_text("second")
    assert path.read_text() == "second"
    assert os.listdir(tmp_path) == ["values.json"]


def test_others_may_read_it_as_any_file_of_the_user(tmp_path):
    path, plain = tmp_path / "values.json", tmp_path / "plain"
    plain.write_text("")
    with whole_file(path) as unfinished:
        unfinished.write_text("")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
