"""The rows of a task: which splits are taken, what is said of them, and where they came from."""

from __future__ import annotations

import pytest
from pictures import pixels, splits
from tiny import picture_dataset

from hf_immunize.data.task import load_evaluation, load_task


def unlabelled(n=8):
    data = picture_dataset(n, seed=3)
    kind = data.features["label"]
    return data.remove_columns("label").add_column("label", [-1] * n, feature=kind)


def test_a_task_by_the_name_of_a_folder(tmp_path):
    splits(train=12, test=4).save_to_disk(tmp_path / "pets")
    task = load_task(tmp_path / "pets")
    assert (task.name, task.revision, task.config) == ("pets", None, None)
    assert (len(task.train), len(task.evaluation)) == (12, 4)
    assert (task.split, task.eval_split) == ("train", "test")
    assert (task.image_column, task.label_column) == ("image", "label")
    assert task.classes == ["class 0", "class 1"]
    assert any("'test' to measure on" in note for note in task.notes)


def test_a_split_without_labels_is_not_measured_on():
    data = splits(train=12, validation=6)
    data["test"] = unlabelled()
    for load in (load_task, load_evaluation):
        task = load(data)
        assert task.eval_split == "validation"
        assert any("'validation' to measure on, since 'test' has no labels" in note for note in task.notes)
    assert load_task(data, labels="unused").eval_split == "test"
    assert load_task(data, labels="optional").eval_split == "validation"
    del data["validation"]
    assert "a fifth of train" in load_task(data, seed=1).eval_split
    assert load_task(data, labels="optional").eval_split == "test"
    with pytest.raises(ValueError, match=r"split 'test' of .* has no labels .all of them are −1 or empty"):
        load_task(data, eval_split="test")
    data["test"] = data["test"].remove_columns("label")
    with pytest.raises(ValueError, match=r"'test' of .* has no column of labels"):
        load_task(data, eval_split="test")


def test_evaluation_rows_alone_follow_the_same_rule():
    assert load_evaluation(splits(train=12, validation=6)).eval_split == "validation"
    assert load_evaluation(splits(train=12, validation=6, test=4)).eval_split == "test"
    task = load_evaluation(splits(train=12))
    assert task.split == task.eval_split == "train"
    assert task.train is task.evaluation
    assert any("'train' to measure on" in note for note in task.notes)
    assert len(load_evaluation(splits(train=12, test=4), split="train").evaluation) == 12
    assert len(load_evaluation((picture_dataset(12), picture_dataset(4))).evaluation) == 4
    task = load_evaluation(picture_dataset(12), max_samples=5)
    assert len(task.evaluation) == 5
    assert task.train is task.evaluation
    with pytest.raises(ValueError, match="has no labels"):
        load_evaluation(unlabelled(), labels="needed")


def test_a_fifth_of_one_data_set_is_held_out_and_said():
    data = picture_dataset(40)
    task = load_task(data, seed=3)
    assert (len(task.train), len(task.evaluation)) == (32, 8)
    assert sorted(pixels(task.train) + pixels(task.evaluation)) == sorted(pixels(data))
    assert task.eval_split == "a fifth of train, drawn by seed 3"
    assert task.name == "data passed as an object"
    assert any("held out a fifth of train, drawn by seed 3" in note for note in task.notes)
    assert pixels(load_task(data, seed=4).evaluation) != pixels(task.evaluation)


def test_a_pair_is_taken_as_it_is():
    train, evaluation = picture_dataset(12), picture_dataset(6, seed=4)
    task = load_task((train, evaluation))
    assert pixels(task.train) == pixels(train)
    assert pixels(task.evaluation) == pixels(evaluation)
    with pytest.raises(ValueError, match="no splits or configurations"):
        load_task((train, evaluation), split="train")
    with pytest.raises(TypeError, match=r"A pair of data sets .* got \(Dataset\)"):
        load_task((train,))


def test_the_same_rows_never_serve_both():
    data = splits(train=20, test=6)
    for one, two in (("test", "test"), ("train", "train[:50%]"), ("train+test", "test")):
        with pytest.raises(ValueError, match="both to train on and to evaluate on"):
            load_task(data, split=one, eval_split=two)
    task = load_task(data, split="train[:80%]", eval_split="train[80%:]")
    assert (len(task.train), len(task.evaluation)) == (16, 4)
    assert (task.split, task.eval_split) == ("train[:80%]", "train[80%:]")
    assert "a fifth of train+test" in load_task(data, split="train+test").eval_split


def test_a_path_that_reads_like_an_id_is_said_to_be_a_path(tmp_path, monkeypatch):
    splits(train=12, test=4).save_to_disk(tmp_path / "me" / "pets")
    monkeypatch.chdir(tmp_path)
    assert any("'me/pets' is a path here" in note for note in load_task("me/pets").notes)
    assert not any("is a path here" in note for note in load_task("./me/pets").notes)


def test_what_is_no_data_set_says_so():
    with pytest.raises(TypeError, match=r"A stream .IterableDataset. has no length"):
        load_task(picture_dataset(12).to_iterable_dataset())
    with pytest.raises(TypeError, match="A data set was expected"):
        load_task(3)
    with pytest.raises(ValueError, match="The configuration 'fine' was named for data that are loaded already"):
        load_task(picture_dataset(12), config="fine")
