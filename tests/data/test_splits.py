"""Splits, slices and sums of them, and what is drawn."""

from __future__ import annotations

import pytest
from datasets import DatasetDict
from pictures import pixels, splits
from pyarrow import parquet
from tiny import picture_dataset

from hf_immunize.data.sources import load_images
from hf_immunize.data.splits import training_name, training_split
from hf_immunize.data.task import load_evaluation, load_task


def test_splits_that_cannot_be_say_which_there_are(tmp_path):
    DatasetDict({"left": picture_dataset(4), "right": picture_dataset(4)}).save_to_disk(tmp_path / "named")
    with pytest.raises(ValueError, match="the splits left, right; none was named"):
        load_images(str(tmp_path / "named"))
    with pytest.raises(ValueError, match="the splits left, right; not 'train'"):
        load_images(str(tmp_path / "named"), "train")
    with pytest.raises(ValueError, match="Split 'train' of 'a/b' is empty"):
        training_split(DatasetDict({"train": picture_dataset(4).select([])}), None, "a/b")
    # Not all versions of `datasets` write a data set without rows.
    parquet.ParquetWriter(tmp_path / "empty.parquet", picture_dataset(4).data.schema).close()
    with pytest.raises(ValueError, match="holds an empty split"):
        load_images(str(tmp_path / "empty.parquet"))


def test_a_folder_with_an_empty_split_is_refused(tmp_path):
    half = DatasetDict({"train": picture_dataset(4), "test": picture_dataset(4).select([])})
    try:
        half.save_to_disk(tmp_path / "empty")
    except ZeroDivisionError:
        pytest.skip("datasets before 5.2 do not write a split without rows")
    with pytest.raises(ValueError, match="holds an empty split"):
        load_images(str(tmp_path / "empty"))


def test_slices_and_sums_of_splits():
    data = splits(train=20, validation=10)
    assert pixels(load_task(data, split="train[:50%]").train) == pixels(data["train"])[:10]
    both = load_task(data, split="train+validation").train.num_rows + 6
    assert both == 30
    with pytest.raises(ValueError, match=r"has the splits train, validation; not 'tran\[:5\]'.*a slice of one"):
        load_task(data, split="tran[:5]")
    with pytest.raises(ValueError, match="is empty"):
        load_task(data, split="train[:0]")


def test_samples_are_drawn_by_the_seed():
    data = splits(train=30, test=20)
    task = load_task(data, max_train_samples=10, max_eval_samples=5, seed=1)
    assert (len(task.train), len(task.evaluation)) == (10, 5)
    assert pixels(task.train) == pixels(load_task(data, max_train_samples=10, seed=1).train)
    assert pixels(task.train) != pixels(load_task(data, max_train_samples=10, seed=2).train)
    assert pixels(task.train) != pixels(data["train"])[:10]
    with pytest.raises(ValueError, match="At least one row"):
        load_task(data, max_train_samples=0)


def test_the_split_to_train_on_may_be_called_otherwise():
    data = splits(training=20, eval=10)
    task = load_task(data)
    assert (task.split, task.eval_split) == ("training", "eval")
    assert task.notes == ("took the split 'training' to train on", "took the split 'eval' to measure on")
    assert training_name(["train_b", "train"]) == "train"
    assert training_name(["train_a", "train_b"]) is None
    with pytest.raises(ValueError, match="the splits train_a, train_b, test; none was named"):
        load_task(splits(train_a=10, train_b=10, test=10))


def test_splits_whose_names_say_nothing_are_said_where_trained_rows_are_measured_on():
    note = "took the split 'train' to measure on, since no other is called as one to measure on ('holdout')"
    assert load_evaluation(splits(train=10, holdout=10)).notes[0] == note


def test_no_class_is_drawn_away_from_the_rows_to_train_on():
    rows = picture_dataset(40)
    rare = rows.remove_columns("label").add_column("label", [0] * 30 + list(range(10)))
    for seed in range(6):
        task = load_task(rare, seed=seed)
        assert len(task.evaluation) == 8
        assert set(task.train["label"]) == set(range(10))
        measured = picture_dataset(10, seed=1).remove_columns("label").add_column("label", list(range(10)))
        drawn = load_task((rare, measured), max_train_samples=12, seed=seed)
        assert set(drawn.train["label"]) == set(range(10))
