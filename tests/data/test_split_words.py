"""The same words mean the same split, wherever they stand."""

from __future__ import annotations

import pytest
from datasets import DatasetDict
from tiny import picture_dataset

from hf_immunize.data.split_words import evaluation_names, names_of_split, one_split_word, split_word
from hf_immunize.data.task import load_evaluation, load_task


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *((name, "train") for name in ("train", "Training", "training_set", "seg_train", "train2017", "trainset")),
        *((name, "test") for name in ("test", "eval", "evaluation", "test_images", "TestSet", "test-1")),
        *((name, "validation") for name in ("validation", "valid", "val", "dev", "val2017")),
        *((name, None) for name in ("train station", "set", "images", "test drive", "trains", "trainval", "2017", "")),
    ],
)
def test_names_and_the_split_they_stand_for(name, split):
    assert split_word(name) == split


def test_a_word_among_others():
    assert one_split_word("cifar10-train-00000-of-00001") == "train"
    assert one_split_word("pets.v2_eval") == "test"
    # Of two splits, or of none.
    assert one_split_word("train_val") is None
    assert one_split_word("cifar10-00000") is None
    assert one_split_word("pretrained-trains") is None


def test_usual_names_come_first():
    assert evaluation_names(["dev", "train", "val", "Test", "holdout", "eval"]) == ["eval", "Test", "val", "dev"]
    assert names_of_split(["train_2", "training", "test"], "train") == ["training", "train_2"]


@pytest.mark.parametrize("name", ["test", "eval", "evaluation", "testing", "dev", "val", "Validation", "test_set"])
def test_a_mapping_of_splits_is_read_as_folders_are(name):
    splits = DatasetDict({"train": picture_dataset(12), name: picture_dataset(5, seed=1)})
    task = load_task(splits)
    assert (task.eval_split, len(task.train), len(task.evaluation)) == (name, 12, 5)
    assert task.notes == (f"took the split {name!r} to measure on",)
    alone = load_evaluation(splits)
    assert (alone.eval_split, len(alone.evaluation)) == (name, 5)
    streamed = load_task({key: rows.to_iterable_dataset() for key, rows in splits.items()})
    assert streamed.eval_split == name
