"""Nothing of the user's is overwritten unasked."""

import pytest
from releases import names, save
from samples import sample_record

from hf_immunize.release.folder import missing_parts
from hf_immunize.release.record import ImmunizationRecord


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"not empty.*overwrite=True"):
        save(tmp_path / "out")
    assert names(tmp_path) == ["out/mine.txt"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="is a file"):
        save(tmp_path / "file", overwrite=True)
    (tmp_path / "empty").mkdir()
    assert missing_parts(save(tmp_path / "empty")) == []


def test_overwriting_replaces_the_release_and_nothing_else(tmp_path):
    folder = save(tmp_path / "out", figures=True)
    (folder / "checkpoint-5").mkdir()
    for name in ("mine.txt", "checkpoint-5/model.safetensors"):
        (folder / name).write_text("mine")
    for name in ("model-00001-of-00002.safetensors", "model.safetensors.index.json"):
        (folder / name).write_text("stale")
    card = (folder / "README.md").read_text(encoding="utf-8")
    (folder / "README.md").write_text(card + "\nMy words.\n", encoding="utf-8")
    record = sample_record(seeds={"training": 9}, results={})
    save(folder, record, overwrite=True)
    assert names(folder) == [
        "README.md",
        "checkpoint-5/model.safetensors",
        "config.json",
        "immunization.json",
        "mine.txt",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    assert ImmunizationRecord.load(folder).seeds == {"training": 9}
    assert (folder / "checkpoint-5" / "model.safetensors").read_text() == "mine"
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "My words." in text
    assert "training = 9" in text
