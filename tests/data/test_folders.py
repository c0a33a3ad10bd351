"""Folders: every picture below them is read, or what is left out is said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pictures import write
from tiny import picture_dataset

from hf_immunize.data.folders import find_pictures
from hf_immunize.data.sources import load_images, load_source
from hf_immunize.data.task import load_task


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


def test_classes_in_another_spelling_are_the_classes(tmp_path):
    write(tmp_path, *(f"train/{name}/{k}.png" for name in ("Cat", "dog") for k in range(3)))
    write(tmp_path, "test/cat/a.png", "test/Dog/b.png", "test/Dog/c.png")
    source = load_source(tmp_path)
    assert not any("classes" in note for note in source.notes)
    task = load_task(tmp_path)
    assert (task.classes, task.eval_split) == (["Cat", "dog"], "test")
    assert sorted(task.evaluation["label"]) == [0, 1, 1]
    assert sum("of the rows to measure on for" in note for note in task.notes) == 2


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


def test_folders_that_systems_make_are_no_classes(tmp_path):
    write(
        tmp_path, "cat/0.png", "dog/1.png", "cat/@eaDir/0.png/THUMB_M.png", "$RECYCLE.BIN/2.png", "__MACOSX/cat/3.png"
    )
    data = load_images(tmp_path)
    assert names(data) == ["cat", "dog"]
    assert len(data) == 2


def test_folders_without_a_picture_beside_the_classes_are_said(tmp_path):
    write(tmp_path, "cat/0.png", "dog/1.png")
    for name in ("bird", ".cache", "__MACOSX"):
        (tmp_path / name).mkdir()
    source = load_source(tmp_path)
    assert names(source.splits["train"]) == ["cat", "dog"]
    assert source.notes == ("no class for folders without a picture: bird",)


def test_which_folder_is_the_class_is_said_where_several_could_be(tmp_path):
    write(tmp_path, "red/small/0.png", "blue/small/1.png", "blue/large/2.png")
    source = load_source(tmp_path)
    assert names(source.splits["train"]) == ["large", "small"]
    assert source.notes == (
        "took the folder that each picture lies in for its class, and not those above it (blue/large, say)",
    )
    write(tmp_path / "other", "train/cat/0.png", "train/dog/1.png", "val/cat/2.png", "val/bird/3.png")
    assert load_source(tmp_path / "other").notes == ("only 'validation' holds the classes bird",)


def test_files_that_pillow_does_not_read_are_said(tmp_path):
    write(tmp_path, "cat/0.png", "dog/1.png")
    for name in ("cat/2.heic", "cat/3.HEIC", "dog/4.svg", "dog/5", "dog/Thumbs.db", "LICENSE", "dog/notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert load_source(tmp_path).notes == (
        "left out files that are no pictures by their suffix: 2 × .heic, 1 × .svg, 1 × no suffix",
    )


def test_metadata_without_labels_leave_the_classes_to_the_folders(tmp_path):
    write(tmp_path, "cat/0.png", "dog/1.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\ncat/0.png,a cat\ndog/1.png,a dog\n")
    source = load_source(tmp_path)
    assert by_file(source.splits["train"]) == {"0.png": "cat", "1.png": "dog"}
    assert any("its metadata name no labels" in note for note in source.notes)


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


def test_a_link_to_a_folder_beside_it_is_a_folder_like_others(tmp_path):
    write(tmp_path, "train/cat/0.png", "train/dog/1.png", "test/dog/2.png")
    os.symlink(tmp_path / "train" / "cat", tmp_path / "test" / "cat")
    source = load_source(tmp_path)
    assert by_file(source.splits["train"]) == {"0.png": "cat", "1.png": "dog"}
    assert by_file(source.splits["test"]) == {"0.png": "cat", "2.png": "dog"}
    # Two folders that hold each other end too.
    write(tmp_path / "pair", "cat/0.png", "dog/1.png")
    os.symlink(tmp_path / "pair" / "cat", tmp_path / "pair" / "dog" / "cat")
    os.symlink(tmp_path / "pair" / "dog", tmp_path / "pair" / "cat" / "dog")
    assert {path.name for path in find_pictures(tmp_path / "pair")} == {"0.png", "1.png"}


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("training_set", "test_set"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("Train-images", "TestSet"),
        ("train2017", "test2017"),
    ],
)
def test_splits_in_the_words_of_kaggle(tmp_path, train, test):
    write(tmp_path, f"{train}/cat/0.png", f"{train}/dog/1.png", f"{test}/cat/2.png", f"{test}/dog/3.png")
    source = load_source(tmp_path)
    assert by_file(source.splits["train"]) == {"0.png": "cat", "1.png": "dog"}
    assert by_file(source.splits["test"]) == {"2.png": "cat", "3.png": "dog"}


def test_words_of_splits_among_others_are_names(tmp_path):
    write(tmp_path, "train station/0.png", "test drive/1.png")
    assert names(load_images(tmp_path)) == ["test drive", "train station"]


def test_folders_of_splits_below_the_classes_are_refused(tmp_path):
    write(tmp_path, "cat/train/0.png", "cat/test/1.png", "dog/train/2.png", "dog/test/3.png")
    with pytest.raises(ValueError, match=r"below its folders \(cat/test, cat/train, dog/test, dog/train\). Put"):
        load_source(tmp_path)
    write(tmp_path / "apart", "cat/train/0.png", "cat/train/1.png", "dog/test/2.png", "dog/test/3.png")
    with pytest.raises(ValueError, match=r"are called test and train: splits, and no classes. Put the splits on top"):
        load_source(tmp_path / "apart")


def four(top=""):
    return [f"{top}{split}/{kind}/{k}.png" for split in ("train", "test") for kind in ("cat", "dog") for k in range(3)]


@pytest.mark.parametrize("beside", ["preview.png", "docs/figure.png", "data/overview.png", "docs/more/figure.png"])
@pytest.mark.parametrize("top", ["data/", "a/data/", ""])
def test_pictures_beside_the_splits_are_left_out_and_make_no_classes_of_them(tmp_path, beside, top):
    write(tmp_path, *four(top), beside)
    task = load_task(tmp_path)
    assert (task.classes, task.eval_split, len(task.train), len(task.evaluation)) == (["cat", "dog"], "test", 6, 6)
    assert {Path(row["image"].filename).parts[-3] for row in task.train} == {"train"}
    assert f"left out 1 picture below {tmp_path.name!r}, in no split" in task.notes


def test_splits_in_several_folders_are_asked(tmp_path):
    write(tmp_path, *four("photo/"), *four("sketch/"))
    with pytest.raises(ValueError, match=r"\(photo/test, photo/train, sketch/test, sketch/train\).*give one of the"):
        load_source(tmp_path)
    assert load_task(tmp_path / "photo").eval_split == "test"


def test_folders_that_may_be_splits_or_classes_are_asked(tmp_path):
    write(tmp_path / "flat", "train/0.png", "test/1.png", "docs/2.png")
    with pytest.raises(ValueError, match=r"has folders called test, train beside docs: splits, or classes. Move"):
        load_source(tmp_path / "flat")
    # Splits without classes below one of several classes look like this, too.
    write(tmp_path / "one", "cat/train/0.png", "cat/test/1.png", "dog/2.png")
    with pytest.raises(ValueError, match=r"below its folders \(cat/test, cat/train\)"):
        load_source(tmp_path / "one")
    write(tmp_path / "loose", "images/train/0.png", "images/test/1.png", "preview.png")
    assert list(load_source(tmp_path / "loose").splits) == ["test", "train"]


def test_a_test_split_without_classes_beside_other_folders(tmp_path):
    write(tmp_path, "train/cat/0.png", "train/dog/1.png", "test/2.png", "docs/3.png")
    source = load_source(tmp_path)
    assert {name: len(rows) for name, rows in source.splits.items()} == {"test": 1, "train": 2}
    assert source.notes == (f"left out 1 picture below {tmp_path.name!r}, in no split",)


def test_metadata_above_a_folder_of_pictures(tmp_path):
    """The most usual layout; a single folder is where the pictures lie, and no class of theirs."""
    write(tmp_path, *(f"images/{k}.png" for k in range(12)))
    lines = "".join(f"images/{k}.png,{kind}\n" for k, kind in enumerate(["benign", "malign"] * 6))
    (tmp_path / "metadata.csv").write_text("file_name,diagnosis\n" + lines)
    task = load_task(tmp_path, label_column="diagnosis")
    assert (task.label_column, task.classes) == ("diagnosis", ["benign", "malign"])
    assert load_images(tmp_path).column_names == ["image", "diagnosis"]
    with pytest.raises(ValueError, match="no column of labels; its columns are image, diagnosis"):
        load_task(tmp_path)


def test_rows_of_metadata_and_pictures_are_counted_apart(tmp_path):
    write(tmp_path / "gone", "0.png", "1.png")
    (tmp_path / "gone" / "metadata.csv").write_text("file_name,label\n0.png,1\n1.png,0\n2.png,1\n3.png,0\n")
    with pytest.raises(ValueError, match=r"name 2 pictures that are not there \(2.png, 3.png\)"):
        load_source(tmp_path / "gone")
    write(tmp_path / "again", "0.png", "1.png", "2.png")
    (tmp_path / "again" / "metadata.csv").write_text("file_name,label\n0.png,1\n1.png,0\n0.png,0\n")
    assert load_source(tmp_path / "again").notes == (
        "read 2 of the 3 pictures below 'again': those that its metadata name",
        "its metadata name 1 pictures again: 3 rows of 2 pictures",
    )
