"""Checkpoints are whole or not there, and a damaged one is named."""

from __future__ import annotations

import json

import pytest

from hf_immunize.training.theta_zero import THETA_ZERO_NAME
from hf_immunize.training.whole_checkpoints import (
    Checkpoint,
    clear_unfinished,
    last_whole,
    put_in_place,
    unfinished,
)


def written(run, step, **state):
    """A checkpoint of two files, one of them in a folder."""
    (run / THETA_ZERO_NAME).write_text("the weights before")
    folder = run / f"checkpoint-{step}"
    target = unfinished(folder)
    (target / "part").mkdir(parents=True)
    (target / "optimizer.pt").write_text(f"optimizer {step}")
    (target / "part" / "rng").write_text(f"rng {step}")
    put_in_place(folder, state)
    clear_unfinished(run)
    return folder


def test_what_is_put_in_place_is_read_back(tmp_path):
    folder = written(tmp_path, 2, seconds=0.1)
    found = Checkpoint.read(folder)
    assert (found.folder, found.state["seconds"]) == (folder, 0.1)
    assert last_whole(tmp_path) == found
    # The same step again takes the place of the first, and nothing else is left.
    written(tmp_path, 2, seconds=0.2)
    assert Checkpoint.read(folder).state["seconds"] == 0.2
    assert {path.name for path in tmp_path.iterdir()} == {THETA_ZERO_NAME, "checkpoint-2"}


def test_the_last_one_is_the_last_by_its_number(tmp_path):
    for step in (10, 9, 100):
        written(tmp_path, step)
    (tmp_path / "checkpoint-notes").mkdir()
    assert last_whole(tmp_path).folder.name == "checkpoint-100"
    assert last_whole(tmp_path / "none") is None


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def altered(path):
    path.write_bytes(path.read_bytes()[:-1] + b"!")


@pytest.mark.parametrize("name", ["optimizer.pt", "part/rng", "immunization_state.json", f"../{THETA_ZERO_NAME}"])
@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: path.unlink(), "is missing"),
        (cut, "bytes|is damaged"),
        (altered, "is not what was written|is damaged"),
    ],
)
def test_every_damaged_file_is_named(tmp_path, name, damage, told):
    folder = written(tmp_path, 4)
    damage(folder / name)
    with pytest.raises(
        ValueError, match=rf"checkpoint-4 is no whole checkpoint: .*{name.rpartition('/')[2]} .*({told})"
    ):
        Checkpoint.read(folder)


def test_a_state_that_is_whole_json_with_another_value_is_damage(tmp_path):
    path = written(tmp_path, 4, options={"seed": 1}) / "immunization_state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"options": {"seed": 2}}))
    with pytest.raises(ValueError, match=r"immunization_state\.json is damaged"):
        Checkpoint.read(path.parent)


def test_the_one_before_is_taken_and_both_are_said(tmp_path, caplog):
    for step in (2, 4, 6):
        written(tmp_path, step)
    cut(tmp_path / "checkpoint-6" / "optimizer.pt")
    (tmp_path / "checkpoint-4" / "part" / "rng").unlink()
    assert last_whole(tmp_path).folder.name == "checkpoint-2"
    told = caplog.text
    assert "checkpoint-6/optimizer.pt holds 10 of 11 bytes" in told
    assert "checkpoint-4/part/rng is missing" in told
    assert "taken: checkpoint-2" in told
    (tmp_path / THETA_ZERO_NAME).unlink()
    with pytest.raises(ValueError, match=rf"θ0 in .*{THETA_ZERO_NAME} is missing.*Start anew"):
        last_whole(tmp_path)


def test_a_checkpoint_whose_best_model_is_damaged_is_not_whole(tmp_path):
    best = written(tmp_path, 2, best="checkpoint-2")
    last = written(tmp_path, 4, best="checkpoint-2")
    assert Checkpoint.read(last).folder == last
    cut(best / "optimizer.pt")
    with pytest.raises(ValueError, match="checkpoint-2 is no whole checkpoint"):
        Checkpoint.read(last)
