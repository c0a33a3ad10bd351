"""The command line as a whole: its verbs, and errors of the program itself."""

from __future__ import annotations

import pytest
from commands import error_of, training

from hf_immunize.cli.main import VERBS, main


def test_help_names_the_verbs_and_a_typo_gets_the_nearest(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in VERBS)
    assert main([]) == 2
    assert main(["trian"]) == 2
    assert "did you mean 'train'?" in capsys.readouterr().err


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
