"""Folders: every picture below them is read, or what is left out is said."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from datasets import DatasetDict
from PIL import Image as PILImage
from tiny import picture_dataset

from hf_immunize.data.local import load_local, reading_errors
from hf_immunize.data.sources import load_images, load_source
from hf_immunize.data.task import load_task


def write(root, *paths):
    for number, path in enumerate(paths):
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        PILImage.new("RGB", (8, 8), (number, 0, 0)).save(target)
    return root


def names(data):
    return data.features["label"].names if "label" in data.features else None


def by_file(data):
    kinds = names(data)
    return {Path(row["image"].filename).name: kinds[row["label"]] for row in data}


def test_words_in_file_names_divide_nothing(tmp_path):
    write(tmp_path, "cat/0.png", "cat/test_0.png", "cat/train-1.png", "dog/2.png", "dog/validation.png")
    data = load_images(tmp_path)
    assert by_file(data) == {
        "0.png": "cat",
        "test_0.png": "cat",
        "train-1.png": "cat",
        "2.png": "dog",
        "validation.png": "dog",
    }


def test_a_class_may_be_called_train(tmp_path):
    write(tmp_path, "car/0.png", "car/1.png", "train/2.png", "train/3.png", "train/4.png")
    source = load_source(tmp_path)
    assert list(source.splits) == ["train"]
    assert names(source.splits["train"]) == ["car", "train"]
    assert len(source.splits["train"]) == 5


def test_folders_called_like_splits_are_splits_and_no_classes(tmp_path):
    write(tmp_path / "flat", "train/0.png", "train/1.png", "test/2.png")
    splits = load_source(tmp_path / "flat").splits
    assert {name: (len(rows), names(rows)) for name, rows in splits.items()} == {"train": (2, None), "test": (1, None)}
    with pytest.raises(ValueError, match="no column of labels"):
        load_task(tmp_path / "flat")

    write(tmp_path / "deep" / "set", "train/cat/0.png", "train/dog/1.png", "val/dog/2.png", "extra/3.png")
    source = load_source(tmp_path / "deep")
    assert {name: len(rows) for name, rows in source.splits.items()} == {"train": 2, "validation": 1}
    assert names(source.splits["validation"]) == ["cat", "dog"]
    assert source.splits["validation"][0]["label"] == 1
    assert source.notes == ("left out 1 picture below 'deep', in no split",)


def test_a_split_without_classes_is_without_labels(tmp_path):
    write(tmp_path, "train/cat/0.png", "train/dog/1.png", "val/cat/2.png", "test/3.png", "test/4.png")
    write(tmp_path, *(f"train/cat/more{k}.png" for k in range(4)))
    task = load_task(tmp_path)
    assert task.eval_split == "validation"
    assert load_source(tmp_path).splits["test"]["label"][:] == [-1, -1]
    for k in (3, 4):
        (tmp_path / "test" / f"{k}.png").unlink()
    write(tmp_path, "test/images/3.png")
    source = load_source(tmp_path)
    assert source.splits["test"]["label"][:] == [-1]
    assert any("none of the classes of 'train'" in note for note in source.notes)


def test_the_folder_that_differs_is_the_class(tmp_path):
    write(tmp_path, "cat/images/0.png", "dog/images/1.png", "dog/images/2.png")
    assert by_file(load_images(tmp_path)) == {"0.png": "cat", "1.png": "dog", "2.png": "dog"}


def test_what_lies_beside_the_classes_is_said(tmp_path):
    write(tmp_path, "cat/0.png", "dog/1.png", "preview.png", ".cache/2.png", "cat/._0.png")
    source = load_source(tmp_path)
    assert len(source.splits["train"]) == 2
    assert source.notes == (f"left out 1 picture below {tmp_path.name!r}, beside the folders of classes",)
    (tmp_path / "index.parquet").write_bytes(b"")
    picture_dataset(3).remove_columns("image").to_parquet(tmp_path / "index.parquet")
    source = load_source(tmp_path)
    assert len(source.splits["train"]) == 2
    assert any("left .parquet and .tar files beside the pictures alone: 1" in note for note in source.notes)


def test_links_that_lead_in_circles_end(tmp_path):
    write(tmp_path, "cat/0.png", "dog/1.png")
    os.symlink(tmp_path, tmp_path / "cat" / "again")
    assert len(load_images(tmp_path)) == 2


@pytest.mark.parametrize("name", ["data [v1]", "a b", "dätä 日本", "star*?"])
def test_any_name_of_a_folder_will_do(tmp_path, name):
    root = tmp_path / name
    write(root / "classes", "cat/0.png", "dog/1.png")
    assert len(load_images(root / "classes")) == 2
    picture_dataset(4).save_to_disk(root / "saved")
    assert len(load_images(root / "saved")) == 4
    (root / "tables").mkdir()
    picture_dataset(5).to_parquet(root / "tables" / "data.parquet")
    assert len(load_images(root / "tables")) == 5
    assert len(load_images(root / "tables" / "data.parquet")) == 5
    write(root / "described", "0.png", "1.png", "test_2.png")
    (root / "described" / "metadata.csv").write_text("file_name,label\n0.png,1\n1.png,0\ntest_2.png,1\n")
    assert load_images(root / "described")["label"][:] == [1, 0, 1]


def test_pictures_with_a_metadata_file(tmp_path):
    write(tmp_path / "table", "0.png", "1.png", "2.png")
    rows = {"file_name": ["0.png", "1.png", "2.png"], "label": [1, 0, 1]}
    import pandas

    pandas.DataFrame(rows).to_parquet(tmp_path / "table" / "metadata.parquet")
    data = load_images(tmp_path / "table")
    assert data["label"][:] == [1, 0, 1]
    assert data[2]["image"].getpixel((0, 0)) == (2, 0, 0)
    write(tmp_path / "part", "train/0.png", "train/1.png", "test/2.png")
    (tmp_path / "part" / "train" / "metadata.csv").write_text("file_name,label\n1.png,4\n")
    (tmp_path / "part" / "test" / "metadata.csv").write_text("file_name,label\n2.png,4\n")
    source = load_source(tmp_path / "part")
    assert {name: len(rows) for name, rows in source.splits.items()} == {"train": 1, "test": 1}
    assert source.notes == ("read 2 of the 3 pictures below 'part': those that its metadata name",)


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
