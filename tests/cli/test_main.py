"""The command line as a whole: its verbs, and errors of the program itself."""

from __future__ import annotations

import io
import signal
import subprocess
import sys

import pytest
from commands import error_of, training

from hf_immunize.cli.main import VERBS, main


def test_help_names_the_verbs_and_a_typo_gets_the_nearest(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in VERBS)
    assert main([]) == 2
    assert main(["trian"]) == 2
    assert "Did you mean 'train'?" in capsys.readouterr().err


def test_without_a_network_the_error_is_about_the_network(world, tmp_path, capsys):
    given = training(world, tmp_path / "out")
    given[given.index("--model") + 1] = "someone/nothing"
    assert "HF_HUB_OFFLINE" in error_of(capsys, given)
    given = training(world, tmp_path / "out")
    given[given.index("--primary") + 1] = "someone/nothing"
    assert "could not be reached for the data set 'someone/nothing'" in error_of(capsys, given)


def test_errors_of_the_program_itself_are_not_hidden(world, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise AttributeError("a fault of ours")

    monkeypatch.setattr("hf_immunize.training.immunize.save_immunized", broken)
    with pytest.raises(AttributeError, match="a fault of ours"):
        main(training(world, tmp_path / "out", "--max_steps", "1"))


SLEEPING = """
import signal, sys, time
# A shell's background job, of which these tests may be one, begins with SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
from hf_immunize.cli import push
from hf_immunize.cli.main import main
from hf_immunize.release.target import claimed, unfinished_beside
def run(given, command):
    import shutil
    with claimed(sys.argv[1]) as folder:
        half = unfinished_beside(folder)
        try:
            print("begun", flush=True)
            time.sleep(60)
        finally:
            shutil.rmtree(half)
push.run = run
sys.exit(main(["push", "x"]))
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_leaves_nothing_half_written(tmp_path, number, status):
    given = [sys.executable, "-c", SLEEPING, str(tmp_path / "out")]
    process = subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    assert any(path.name.endswith(".unfinished") for path in tmp_path.iterdir())
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert "Nothing half written was left" in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_names_of_files_do_not_steer_the_terminal(tmp_path, capsys):
    assert main(["push", str(tmp_path / "a\x1b[2Jb"), "--repo_id", "me/x"]) == 1
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_letters_that_the_terminal_cannot_show_are_no_reason_to_stop(monkeypatch, encoding):
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("hf_immunize.cli.push.run", lambda *_, **__: print("κ = 3") or 0)
    assert main(["push"]) == 0
    assert main(["--help"]) == 0
    out.flush()
    assert out.buffer.getvalue().startswith(b"? = 3\nusage: hf-immunize VERB ?")
