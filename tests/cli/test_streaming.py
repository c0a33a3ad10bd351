"""`--streaming`: a training, an evaluation and an attack on data sets that are read row by row."""

from __future__ import annotations

import json
import shutil

import pytest
from commands import error_of, training
from tiny import picture_dataset

from hf_immunize.cli.main import main
from hf_immunize.release.record import ImmunizationRecord


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Parquet files of both tasks, with a split to measure on."""
    folder = tmp_path_factory.mktemp("shards")
    for task, seed in (("primary", 1), ("harmful", 7)):
        (folder / task).mkdir()
        for split, n in (("train", 60), ("test", 40)):
            rows = picture_dataset(n, seed=seed + n)
            rows.to_parquet(folder / task / f"{split}-00000-of-00001.parquet")
    return folder


def test_a_training_whose_record_says_what_was_drawn(world, shards, tmp_path):
    given = training(world, tmp_path / "out", primary=shards / "primary", harmful=shards / "harmful")
    assert main([*given, "--streaming", "--max_eval_samples", "24", "--attackers", "ridge", "--no_control"]) == 0
    record = ImmunizationRecord.load(tmp_path / "out")
    assert (record.primary.n_train, record.primary.n_eval) == (None, 24)
    assert (record.primary.split, record.primary.eval_split) == ("train", "test")
    assert record.primary.classes == ["class 0", "class 1"]
    notes = record.training["notes"]
    assert any("harmful: took 24 rows of the stream 'test'" in note for note in notes)
    assert any("a stream is read as it comes" in note for note in notes)
    assert "attacks" in record.results


def test_an_evaluation_and_an_attack_on_so_many_rows(world, shards, tmp_path, capsys):
    base = str(shutil.copytree(world / "vit", tmp_path / "base"))
    named = [part for task in ("primary", "harmful") for part in (f"--{task}", str(shards / task))]
    given = ["evaluate", str(world / "vit"), "--base", base, *named, "--streaming", "--max_samples", "20"]
    assert main([*given, "--groups", "2", "--group_size", "8", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["data"]["primary"] == {"data": "primary", "split": "test", "rows": 20}
    assert "took 20 rows of the stream 'test'" in err
    given = ["attack", str(world / "vit"), "--base", base, *named[2:], "--streaming", "--steps", "5"]
    assert main([*given, "--max_samples", "30", "--attackers", "ridge", "--seeds", "0", "--no_scratch", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["n_train"], report["n_test"]) == (30, 30)


def test_what_a_stream_cannot_do_is_said(world, shards, tmp_path, capsys):
    given = [*training(world, tmp_path / "out", primary=shards / "primary", harmful=shards / "harmful"), "--streaming"]
    slices = error_of(capsys, [*given, "--primary_split", "train[:10%]"])
    assert "a stream has no slices or sums" in slices
    epochs = [one for one in given if one not in ("--max_steps", "4")]
    assert "Set max_steps" in error_of(capsys, [*epochs, "--num_train_epochs", "1"])
    assert "a stream has no rows to keep" in error_of(capsys, [*given, "--cache_frozen", "on"])
