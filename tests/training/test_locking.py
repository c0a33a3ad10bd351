"""One run a folder, until it ends or is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from hf_immunize.errors import OutputError, OutputExistsError
from hf_immunize.training.locking import locked

HOLDS = """
import sys, time
from pathlib import Path
from hf_immunize.training.locking import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(300)
"""


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path):
    folder = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLDS, folder], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(OutputExistsError, match=r"Another run writes into .*run\. Wait until it ends"),
            locked(folder),
        ):
            raise AssertionError("two runs hold one folder")
        os.kill(other.pid, signal.SIGKILL)
    with locked(folder):
        assert folder.is_dir()


def test_an_inner_lock_does_not_let_go_and_an_empty_folder_is_not_left(tmp_path):
    folder = tmp_path / "new" / "run"
    with locked(folder):
        with locked(folder):
            pass
        assert list(folder.iterdir())
    assert not folder.exists()
    with locked(folder):
        (folder / "file").write_text("something")
    assert [path.name for path in folder.iterdir()] == ["file"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with (
        pytest.raises(OutputError, match=r"file/run could not be written .*Choose a folder"),
        locked(tmp_path / "file/run"),
    ):
        pass
