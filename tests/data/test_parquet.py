"""Parquet files mean by a label what each of them says."""

from __future__ import annotations

import io

import pandas
import pytest
from datasets import ClassLabel, Dataset, Value, concatenate_datasets
from pictures import pixels
from tiny import picture_dataset

from hf_immunize.data.names import renumbered
from hf_immunize.data.parquet import holds_pictures, read_parquet
from hf_immunize.data.sources import load_images, load_source
from hf_immunize.data.task import load_task


def cats_and_dogs(n, order=("cat", "dog"), seed=0):
    """The names of two classes in some order; that of a row depends on the row alone."""
    data = picture_dataset(n, seed=seed)
    data = data.remove_columns("label").add_column(
        "label", [k % 2 for k in range(n)], feature=ClassLabel(names=["cat", "dog"])
    )
    return renumbered(data, "label", list(order))


def named(data):
    kinds = data.features["label"].names
    return [kinds[row["label"]] for row in data]


@pytest.mark.parametrize("streaming", [False, True])
def test_splits_that_order_their_classes_otherwise(tmp_path, streaming):
    train, test = cats_and_dogs(12), cats_and_dogs(6, ("dog", "cat"), seed=1)
    train.to_parquet(tmp_path / "train.parquet")
    test.to_parquet(tmp_path / "test.parquet")
    task = load_task(tmp_path, streaming=streaming)
    assert task.classes == ["cat", "dog"]
    assert task.train.features == task.evaluation.features
    by_picture = dict(zip(map(bytes, pixels(test)), named(test), strict=True))
    assert dict(zip(map(bytes, pixels(task.evaluation)), named(task.evaluation), strict=True)) == by_picture
    assert "numbered the classes of the rows to measure on as those of the rows to train on, by name" in task.notes
    assert named(load_images(tmp_path, "test")) == named(test)


@pytest.mark.parametrize("streaming", [False, True])
def test_shards_that_order_their_classes_otherwise(tmp_path, streaming):
    parts = [cats_and_dogs(4), cats_and_dogs(4, ("dog", "cat", "bird"), seed=1), cats_and_dogs(4, seed=2)]
    for number, part in enumerate(parts):
        part.to_parquet(tmp_path / f"train-0000{number}-of-00003.parquet")
    source = load_source(tmp_path, streaming=streaming)
    rows = source.splits["train"]
    assert rows.features["label"].names == ["cat", "dog", "bird"]
    assert named(rows) == ["cat", "dog"] * 6
    assert pixels(rows) == [one for part in parts for one in pixels(part)]
    assert source.notes == (
        "the files of 'train' number the classes of 'label' otherwise: brought them into the order of "
        "train-00000-of-00003.parquet, by name, with bird behind it",
    )


def test_rows_without_a_label_stay_without(tmp_path):
    cats_and_dogs(4).to_parquet(tmp_path / "a.parquet")
    other = cats_and_dogs(3, ("dog", "cat"))
    other = other.remove_columns("label").add_column("label", [0, -1, None], feature=other.features["label"])
    other.to_parquet(tmp_path / "b.parquet")
    for streaming in (False, True):
        rows = load_source(tmp_path, streaming=streaming).splits["train"]
        assert [row["label"] for row in rows] == [0, 1, 0, 1, 1, -1, None]


def test_numbers_beside_names_are_asked(tmp_path):
    cats_and_dogs(4).to_parquet(tmp_path / "a.parquet")
    cats_and_dogs(4).cast_column("label", Value("int64")).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"a.parquet names the classes of 'label', and b.parquet does not. Cast them"):
        load_source(tmp_path)
    # Names that are the numbers say no more than these.
    digits = cats_and_dogs(4).cast_column("label", ClassLabel(names=["0", "1"]))
    digits.to_parquet(tmp_path / "a.parquet")
    assert load_images(tmp_path)["label"][:] == [0, 1, 0, 1] * 2


def test_types_that_name_nothing_are_left_to_datasets(tmp_path):
    cats_and_dogs(4).cast_column("label", Value("int32")).to_parquet(tmp_path / "a.parquet")
    cats_and_dogs(4).cast_column("label", Value("int64")).to_parquet(tmp_path / "b.parquet")
    found, notes = read_parquet({"train": [tmp_path / "a.parquet", tmp_path / "b.parquet"]})
    assert (len(found["train"]), notes) == (8, ())


def test_a_copy_whose_files_order_their_classes_otherwise_is_refused(tmp_path):
    cats_and_dogs(4).to_parquet(tmp_path / "train.parquet")
    cats_and_dogs(4, ("dog", "cat")).to_parquet(tmp_path / "test.parquet")
    files = "".join(f"  - split: {split}\n    path: {split}.parquet\n" for split in ("train", "test"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n")
    with pytest.raises(ValueError, match=r"number the classes of 'label' otherwise \(train.parquet and test.parquet\)"):
        load_source(tmp_path)
    cats_and_dogs(4).to_parquet(tmp_path / "test.parquet")
    assert len(concatenate_datasets(list(load_source(tmp_path).splits.values()))) == 8


def test_tables_of_pandas_hold_pictures_or_none(tmp_path):
    buffer = io.BytesIO()
    picture_dataset(1)[0]["image"].save(buffer, "PNG")
    for name, cells in {"bytes": [buffer.getvalue()], "cell": [{"bytes": buffer.getvalue(), "path": None}]}.items():
        pandas.DataFrame({"image": cells}).to_parquet(tmp_path / f"{name}.parquet")
        assert holds_pictures(tmp_path / f"{name}.parquet")
    Dataset.from_dict({"label": [1]}).to_parquet(tmp_path / "labels.parquet")
    (tmp_path / "none.parquet").write_bytes(b"x")
    assert not holds_pictures(tmp_path / "labels.parquet")
    assert not holds_pictures(tmp_path / "none.parquet")
