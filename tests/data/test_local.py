"""Folders and files of every kind that a data set is stored in."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from datasets import DatasetDict
from pictures import pixels, write
from tiny import picture_dataset

from hf_immunize.data.local import load_local, reading_errors
from hf_immunize.data.sources import load_images, load_source
from hf_immunize.data.task import load_task


def test_a_folder_of_save_to_disk(tmp_path, pictures):
    pictures.save_to_disk(tmp_path / "one")
    assert pixels(load_images(str(tmp_path / "one"))) == pixels(pictures)
    other = picture_dataset(5, seed=9)
    DatasetDict({"train": pictures, "test": other}).save_to_disk(tmp_path / "two")
    assert pixels(load_images(str(tmp_path / "two"))) == pixels(pictures)
    assert pixels(load_images(str(tmp_path / "two"), "test")) == pixels(other)


def test_a_parquet_file_and_a_folder_of_them(tmp_path, pictures):
    (tmp_path / "data").mkdir()
    pictures.to_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    picture_dataset(5, seed=9).to_parquet(tmp_path / "data" / "test-00000-of-00001.parquet")
    one = load_images(str(tmp_path / "data" / "train-00000-of-00001.parquet"))
    assert pixels(one) == pixels(pictures)
    assert one.features == pictures.features
    assert len(load_images(str(tmp_path), "train")) == 12
    assert len(load_images(str(tmp_path), "test")) == 5


def test_a_suffix_in_capitals_is_one(tmp_path, pictures):
    pictures.to_parquet(tmp_path / "ROWS.PARQUET")
    for path in (tmp_path, tmp_path / "ROWS.PARQUET"):
        assert len(load_source(path).splits["train"]) == len(pictures)


def test_parquet_files_by_split(tmp_path):
    for name, n in {"val.parquet": 3, "data/train-00000-of-00001.parquet": 4, "left-00000-of-00001.parquet": 5}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture_dataset(n).to_parquet(tmp_path / name)
    write(tmp_path, "preview.png")
    source = load_source(tmp_path)
    assert {name: len(rows) for name, rows in source.splits.items()} == {"train": 4, "validation": 3, "left": 5}
    assert any("not the pictures beside them: 1" in note for note in source.notes)
    picture_dataset(2).to_parquet(tmp_path / "more.parquet")
    assert any("whose names say no split: 1" in note for note in load_source(tmp_path).notes)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("cifar10-train-00000-of-00001", "cifar10-test-00000-of-00001"),
        ("big-pets.train-00000-of-00001", "big-pets.eval-00000-of-00001"),
        ("pets-train-00000-of-00001-0a1b2c3d", "pets-test-00000-of-00001-4e5f6a7b"),
        ("training-data/train", "training-data/test"),
        ("train/00000-of-00001", "test/00000-of-00001"),
        ("train2017", "test2017"),
        ("train_val", "test"),
    ],
)
def test_shards_with_a_split_among_other_words(tmp_path, train, test):
    for name, n in {train: 4, test: 3}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture_dataset(n).to_parquet(tmp_path / f"{name}.parquet")
    assert {name: len(rows) for name, rows in load_source(tmp_path).splits.items()} == {"train": 4, "test": 3}


def test_shards_of_a_name_that_is_no_split(tmp_path):
    for number in range(2):
        picture_dataset(3).to_parquet(tmp_path / f"big-pets-0000{number}-of-00002.parquet")
    assert {name: len(rows) for name, rows in load_source(tmp_path).splits.items()} == {"train": 6}


def test_a_copy_of_a_data_set_whose_card_names_its_files(tmp_path):
    for name, n in {"a": 3, "b": 4}.items():
        picture_dataset(n).to_parquet(tmp_path / f"{name}.parquet")
    configs = "".join(f"- config_name: {name}\n  data_files: {name}.parquet\n" for name in "ab")
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n# Pictures\n")
    assert len(load_images(tmp_path, config="b")) == 4
    with pytest.raises(
        ValueError, match=r"could not be read as a copy of a data set of the Hub: Config name is missing"
    ):
        load_images(tmp_path)
    (tmp_path / "README.md").unlink()
    with pytest.raises(ValueError, match="The configuration 'b' was named for the local"):
        load_images(tmp_path, config="b")


def shard(path, n):
    with tarfile.open(path, "w") as archive:
        for number, row in enumerate(picture_dataset(n)):
            buffer = io.BytesIO()
            row["image"].save(buffer, "PNG")
            for suffix, content in (("png", buffer.getvalue()), ("cls", str(row["label"]).encode())):
                member = tarfile.TarInfo(f"{number:05d}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def test_webdataset_shards(tmp_path):
    shard(tmp_path / "train-000.tar", 12)
    shard(tmp_path / "train-001.tar", 3)
    shard(tmp_path / "test-000.tar", 5)
    task = load_task(tmp_path)
    assert (len(task.train), len(task.evaluation)) == (15, 5)
    assert (task.image_column, task.label_column) == ("png", "cls")
    assert task.train["cls"][:12] == picture_dataset(12)["label"][:]
    assert len(load_task(tmp_path / "train-000.tar").evaluation) == 3


def test_splits_of_a_saved_folder_are_sliced(tmp_path):
    DatasetDict({"train": picture_dataset(20), "validation": picture_dataset(12)}).save_to_disk(tmp_path / "p")
    assert len(load_images(tmp_path / "p", "train[:50%]")) == 10
    assert len(load_images(tmp_path / "p", "train+validation")) == 32


def test_nothing_to_read_says_what_is_there(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"x")
    (tmp_path / "b.heic").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"No images were found in .* \(it holds 2 × .heic\)"):
        load_images(tmp_path)
    (tmp_path / "c.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match=r"could not be read as parquet: .*[Pp]arquet"):
        load_images(tmp_path)


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    picture_dataset(4).to_parquet(tmp_path / "a.parquet")
    write(tmp_path / "classes", "cat/0.png", "dog/1.png")
    code = (
        "from hf_immunize.data.sources import load_images\n"
        f"print(len(load_images({str(tmp_path / 'classes')!r})))\n"
        f"load_images({str(tmp_path / 'a.parquet')!r})"
    )
    environment = {**os.environ, "HF_HOME": "/proc/none", "PYTHONPATH": str(Path(__file__).parents[2])}
    environment.pop("HF_DATASETS_CACHE", None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    # Pictures by class need no cache at all.
    assert done.stdout.strip() == "2"
    assert "InputError: The cache of `datasets` cannot be written ([Errno" in done.stderr
    assert "Set HF_HOME" in done.stderr


def test_the_true_cause_is_told():
    with (
        pytest.raises(
            ValueError, match=r"'me/pets' could not be read as a data set of pictures: .*refs/convert/parquet"
        ),
        reading_errors("me/pets", "a data set of pictures"),
    ):
        raise RuntimeError("Dataset scripts are no longer supported, but found pets.py")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a user whom a mode of 0 keeps out")
def test_a_folder_that_may_not_be_read_is_named(tmp_path):
    write(tmp_path, "cat/0.png", "dog/1.png")
    (tmp_path / "cat").chmod(0)
    try:
        with pytest.raises(ValueError, match="cannot be read: Permission denied"):
            load_local(tmp_path)
    finally:
        (tmp_path / "cat").chmod(0o755)


def test_tables_beside_pictures_that_are_not_read_are_said(tmp_path):
    write(tmp_path, "images/0.png", "images/1.png", "padded/2.png")
    (tmp_path / "metadata1000.jsonl").write_text('{"file_name": "images/0.png", "label": 1}')
    notes = load_source(tmp_path).notes
    assert any("did not read metadata1000.jsonl: pictures are described by metadata.csv" in note for note in notes)


@pytest.mark.parametrize("name", ["pets", "./pets", "../here/pets"])
def test_a_path_from_where_one_stands(tmp_path, monkeypatch, name):
    write(tmp_path / "here" / "pets", "cat/0.png", "cat/1.png", "dog/2.png")
    picture_dataset(5).to_parquet(tmp_path / "here" / "rows.parquet")
    monkeypatch.chdir(tmp_path / "here")
    assert len(load_images(name)) == 3
    assert len(load_images("rows.parquet")) == 5


def described(root, files, kinds=("cat", "dog"), column="label"):
    write(root, *files)
    lines = "".join(f"{name},{kinds[number % len(kinds)]}\n" for number, name in enumerate(files))
    (root / "metadata.csv").write_text(f"file_name,{column}\n" + lines)


@pytest.mark.parametrize("top", ["", "data/"])
def test_metadata_above_the_splits_describe_them_all(tmp_path, top):
    described(tmp_path, [f"{top}train/{k}.png" for k in range(12)] + [f"{top}val/{k}.png" for k in range(4)])
    # What lies elsewhere describes nothing here.
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "metadata.csv").write_text("file_name,label\nnone.png,bird\n")
    task = load_task(tmp_path)
    assert (task.classes, task.eval_split) == (["cat", "dog"], "validation")
    assert task.train["label"][:] == [0, 1] * 6
    assert [row["image"].getpixel((0, 0))[0] for row in task.evaluation] == [12, 13, 14, 15]
    assert load_task(tmp_path, labels="optional").label_column == "label"


def test_metadata_above_the_splits_that_leave_rows_or_a_split_out(tmp_path):
    described(tmp_path / "more", ["train/0.png", "train/1.png", "test/2.png", "preview.png"])
    source = load_source(tmp_path / "more")
    assert {name: len(rows) for name, rows in source.splits.items()} == {"test": 1, "train": 2}
    assert source.notes == ("left out 1 rows of the metadata, of pictures in no split",)
    described(tmp_path / "part", ["train/0.png", "train/1.png"])
    write(tmp_path / "part", "test/2.png")
    with pytest.raises(ValueError, match=r"above the splits of .* name no picture of test. Give each split its rows"):
        load_source(tmp_path / "part")
    # Captions leave the classes to the folders.
    described(tmp_path / "captions", ["train/cat/0.png", "train/dog/1.png", "test/dog/2.png"], column="text")
    write(tmp_path / "captions", "test/cat/3.png")
    splits = load_source(tmp_path / "captions").splits
    assert {name: rows["label"][:] for name, rows in splits.items()} == {"test": [0, 1], "train": [0, 1]}
