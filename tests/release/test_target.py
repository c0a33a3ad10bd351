"""Nothing of the user's is overwritten unasked."""

import os
import shutil
import subprocess
import sys

import pytest
from releases import names, save
from samples import sample_record

from hf_immunize.release.folder import missing_parts
from hf_immunize.release.record import ImmunizationRecord
from hf_immunize.release.target import check_can_be_made, check_target, claimed


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


def test_names_that_only_look_like_the_librarys_are_the_users(tmp_path):
    folder = save(tmp_path / "out")
    mine = (
        "model-backup.safetensors",
        "model_theta0.safetensors",
        "model_fp16.safetensors",
        "model-ema.safetensors",
        "model-1-of-2.safetensors",
        "initial/model-mine.safetensors",
        "figures/mine.png",
    )
    for name in mine:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine")
    (folder / "empty").mkdir()
    (folder / "link").symlink_to("model-backup.safetensors")
    inode = (folder / "model-backup.safetensors").stat().st_ino
    save(folder, overwrite=True)
    assert all((folder / name).read_text() == "mine" for name in mine)
    assert (folder / "model-backup.safetensors").stat().st_ino == inode
    assert (folder / "link").is_symlink()
    assert (folder / "empty").is_dir()


def test_a_users_file_in_the_way_of_a_folder_stops_the_save(tmp_path):
    folder = save(tmp_path / "out")
    (folder / "figures").write_text("mine")
    before = {name: (folder / name).read_bytes() for name in names(folder)}
    with pytest.raises(FileExistsError, match="figures stands where the release has something of its own"):
        save(folder, overwrite=True, figures=True)
    assert {name: (folder / name).read_bytes() for name in names(folder)} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("step", ["first", "second"])
def test_a_release_is_old_or_new_whenever_the_swap_is_broken_off(tmp_path, monkeypatch, step):
    folder = save(tmp_path / "out")
    (folder / "mine.txt").write_text("mine")
    before = {name: (folder / name).read_bytes() for name in names(folder)}
    rename, calls = os.rename, []

    def broken(source, target):
        calls.append(target)
        if len(calls) == (1 if step == "first" else 2):
            raise OSError("planted")
        rename(source, target)

    monkeypatch.setattr(os, "rename", broken)
    with pytest.raises(OSError, match="planted"):
        save(folder, sample_record(seeds={"training": 9}), overwrite=True)
    assert {name: (folder / name).read_bytes() for name in names(folder)} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_run_left_is_cleared_and_put_back(tmp_path):
    folder = save(tmp_path / "out")
    half = tmp_path / ".out-abcdefgh.unfinished"
    half.mkdir()
    (tmp_path / ".out-notes.unfinished").mkdir()
    folder.rename(tmp_path / ".out.previous")
    with claimed(folder):
        assert missing_parts(folder) == []
        assert not half.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out-notes.unfinished", "out"]
    shutil.copytree(folder, tmp_path / ".out.previous")
    save(folder, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out-notes.unfinished", "out"]


def test_a_folder_is_made_and_kept_for_one_run(tmp_path):
    folder = tmp_path / "deep" / "out"
    hold = (
        "import sys, time\nfrom hf_immunize.release.target import claimed\n"
        "with claimed(sys.argv[1]):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", hold, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        assert folder.is_dir()
        with pytest.raises(FileExistsError, match="Another run is writing"):
            save(folder)
    finally:
        other.kill()
        other.wait()
    # A lock dies with its holder.
    assert missing_parts(save(folder)) == []
    assert [path.name for path in folder.parent.iterdir()] == ["out"]


def test_an_unused_folder_goes_again_and_one_that_cannot_be_says_so(tmp_path):
    with claimed(tmp_path / "out") as folder, claimed(tmp_path / "out"):
        assert folder.is_dir()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileExistsError, match="cannot be written"), claimed(tmp_path / "file" / "out"):
        pass


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk")
    save(tmp_path / "out")
    assert (tmp_path / "out").is_symlink()
    assert missing_parts(tmp_path / "disk") == []
    with pytest.raises(FileExistsError, match="mount point"):
        check_target("/proc", True)


def test_a_folder_that_cannot_be_made_is_said_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    check_can_be_made(tmp_path)
    check_can_be_made(tmp_path / "new" / "folder")
    for name in ("file", "file/folder", "file/folder/deeper"):
        with pytest.raises(FileExistsError, match=r"file is a file\. Name a folder"):
            check_can_be_made(tmp_path / name)
    monkeypatch.setattr("hf_immunize.release.target.os.access", lambda *_: False)
    with pytest.raises(OSError, match="cannot be written"):
        check_can_be_made(tmp_path / "new")
    assert names(tmp_path) == ["file"]


def test_the_root_is_no_folder_for_a_release():
    with pytest.raises(FileExistsError, match="is the root of the disk"), claimed("/"):
        pass
