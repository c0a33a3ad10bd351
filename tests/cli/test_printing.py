"""What verbs print."""

from __future__ import annotations

import argparse
import io
import json

import pytest
from commands import training
from samples import sample_record

from hf_immunize.cli.main import main
from hf_immunize.cli.printing import as_json, finish, required, say, stdout_for_results


def test_training_prints_a_table_or_json(world, tmp_path, capsys):
    assert main(training(world, tmp_path / "table", "--max_steps", "1")) == 0
    out = capsys.readouterr().out
    for words in ("primary accuracy", "RIR, 20 groups of 8", "strongest probe", "model.safetensors"):
        assert words in out
    assert f"hf-immunize push {tmp_path / 'table'} --repo_id" in out
    assert main(training(world, tmp_path / "json", "--max_steps", "1", "--json")) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["folder"] == str(tmp_path / "json")
    assert printed["results"]["rir"].keys() == {"immunized", "control"}


def test_an_option_that_is_missing_is_named_as_it_is_given():
    given = argparse.Namespace(model="a", base=None, harmful="")
    required("attack", given, "model")
    with pytest.raises(ValueError, match=r"attack needs --base, --harmful \(see `hf-immunize attack --help`\)"):
        required("attack", given, "model", "base", "harmful")
    # What stands without dashes on the command line has none in the message.
    bare = argparse.Namespace(model=None, folder=None)
    with pytest.raises(ValueError, match="evaluate needs model "):
        required("evaluate", bare, "model")
    with pytest.raises(ValueError, match="push needs folder "):
        required("push", bare, "folder")
    with pytest.raises(ValueError, match="train needs --model "):
        required("train", bare, "model")


def test_notes_go_to_the_error_stream(capsys):
    say(["took the column 'a'", "held out a fifth"])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["hf-immunize: took the column 'a'", "hf-immunize: held out a fifth"]


def test_with_json_what_libraries_print_stays_out_of_stdout(capsys):
    for wanted, stream in ((True, "err"), (False, "out")):
        with stdout_for_results(wanted):
            print("a library's word")
        captured = capsys.readouterr()._asdict()
        assert captured.pop(stream) == "a library's word\n"
        assert set(captured.values()) == {""}


def test_a_release_is_printed_with_its_files_and_how_to_publish_it(tmp_path, capsys):
    folder = tmp_path / "my release"
    (folder / ".cache").mkdir(parents=True)
    for name in ("README.md", "config.json", ".cache/note"):
        (folder / name).write_text("")
    assert finish(folder, sample_record(), False) == 0
    out = capsys.readouterr().out
    assert "primary accuracy" in out
    assert [line for line in out.splitlines() if line.startswith(str(tmp_path))] == [
        str(folder / "README.md"),
        str(folder / "config.json"),
    ]
    assert out.rstrip().endswith(f"hf-immunize push '{folder}' --repo_id USER/NAME")
    assert finish(folder, sample_record(), True) == 0
    assert json.loads(capsys.readouterr().out)["training"] == sample_record().training


@pytest.mark.parametrize(("encoding", "text"), [("utf-8", '"κ é 🙂"'), ("latin-1", r'"\u03ba \u00e9 \ud83d\ude42"')])
def test_json_is_json_in_every_encoding(monkeypatch, encoding, text):
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert as_json("κ é 🙂") == text
    assert json.loads(text) == "κ é 🙂"
