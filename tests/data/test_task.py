"""The rows of a task: which splits are taken, what is said of them, and where they came from."""

from __future__ import annotations

import pytest
from datasets import ClassLabel, IterableDataset, Value
from pictures import pixels, processor, splits
from tiny import picture_dataset

from hf_immunize.data.images import ImageInputs
from hf_immunize.data.streams import StreamedInputs
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
    with pytest.raises(TypeError, match="A data set was expected"):
        load_task(3)
    with pytest.raises(ValueError, match="The configuration 'fine' was named for data that are loaded already"):
        load_task(picture_dataset(12), config="fine")


@pytest.fixture
def shards(tmp_path):
    for name, rows in splits(train=30, test=9, validation=12).items():
        rows.to_parquet(tmp_path / f"{name}-00000-of-00001.parquet")
    return tmp_path


def test_a_stream_is_trained_on_as_it_comes_and_rows_of_it_are_measured_on(shards):
    task = load_task(shards, streaming=True, max_eval_samples=5)
    assert isinstance(task.train, IterableDataset)
    assert (task.split, task.eval_split, len(task.evaluation)) == ("train", "test", 5)
    assert task.classes == ["class 0", "class 1"]
    assert any("took 5 rows of the stream 'test'" in note for note in task.notes)
    train, evaluation = task.inputs(processor())
    assert isinstance(train, StreamedInputs)
    assert isinstance(evaluation, ImageInputs)
    assert len(list(train)) == 30
    # All of them where there are fewer than are drawn.
    assert len(load_task(shards, streaming=True).evaluation) == 9


def test_so_many_rows_of_a_stream_are_a_data_set(shards):
    task = load_task(shards, streaming=True, max_train_samples=20, eval_split="validation")
    assert (len(task.train), len(task.evaluation)) == (20, 12)
    assert isinstance(task.inputs(processor())[0], ImageInputs)
    for name in ("test", "validation"):
        (shards / f"{name}-00000-of-00001.parquet").unlink()
    held_out = load_task(shards, streaming=True, max_train_samples=20)
    assert (len(held_out.train), len(held_out.evaluation)) == (16, 4)
    with pytest.raises(ValueError, match="a stream without a split to measure on"):
        load_task(shards, streaming=True)


def test_streams_to_measure_on_alone(shards):
    assert load_evaluation(shards, streaming=True, max_samples=4).eval_split == "test"
    task = load_evaluation(picture_dataset(30).to_iterable_dataset(), max_samples=4)
    assert len(task.evaluation) == 4
    assert any("took 4 rows of the stream 'train'" in note for note in task.notes)


def test_streams_that_were_passed_in_any_form():
    data = splits(train=20, test=6)
    streams = {name: rows.to_iterable_dataset() for name, rows in data.items()}
    for given in (streams, tuple(streams.values())):
        task = load_task(given, max_eval_samples=4)
        assert isinstance(task.train, IterableDataset)
        assert len(task.evaluation) == 4
    mixed = load_task((streams["train"], data["test"]))
    assert mixed.evaluation is not None
    assert len(mixed.evaluation) == 6


@pytest.mark.parametrize("asked", ["train[:10%]", "train+test", "tset"])
def test_a_stream_has_no_slices(shards, asked):
    with pytest.raises(ValueError, match=r"not 'train\[:10%\]'|not 'train\+test'|not 'tset'"):
        load_task(shards, split=asked, streaming=True)
    with pytest.raises(ValueError, match="a stream has no slices or sums"):
        load_evaluation(shards, split=asked, streaming=True)


def test_rows_of_a_stream_are_not_measured_on_and_trained_on_at_once(shards):
    with pytest.raises(ValueError, match="would serve both"):
        load_task(shards, eval_split="train", streaming=True)


def test_a_split_of_a_stream_without_labels_is_passed_over(tmp_path):
    data = splits(train=12, validation=6)
    data["test"] = unlabelled()
    streams = {name: rows.to_iterable_dataset() for name, rows in data.items()}
    assert load_task(streams).eval_split == "validation"
    streams["train"] = streams.pop("test")
    with pytest.raises(ValueError, match=r"'train' .* has no labels"):
        load_task(streams)


def test_classes_that_sorted_data_do_not_show_are_said():
    ordered = picture_dataset(80).sort("label").to_iterable_dataset()
    few = load_task({"train": picture_dataset(20), "test": ordered.take(20)})
    assert "the rows to measure on hold 1 of 2 classes" in few.notes
    both = load_task({"train": picture_dataset(20), "test": ordered})
    assert not any("classes" in note for note in both.notes)
    ordered = picture_dataset(80).sort("label")
    first = load_task({"train": ordered, "test": picture_dataset(20)}, split="train[:10%]")
    assert "the rows to train on hold 1 of 2 classes" in first.notes


def test_a_column_that_names_splits_and_divides_nothing_is_said():
    rows = picture_dataset(40)
    said = rows.add_column("split", ["train"] * 30 + ["test"] * 10)
    task = load_task(said)
    note = next(one for one in task.notes if one.startswith("the column 'split'"))
    assert "says 'test' and 'train', and did not divide the rows" in note
    for other in (rows.add_column("split", ["a", "b"] * 20), rows.add_column("set", ["train"] * 40), rows):
        assert not any("did not divide" in one for one in load_task(other).notes)
    divided = {
        name: said.filter(lambda one, name=name: one == name, input_columns="split") for name in ("train", "test")
    }
    assert not any("did not divide" in one for one in load_task(divided).notes)


def test_classes_that_are_measured_and_never_trained_on_are_said():
    ordered = picture_dataset(90, n_classes=3).sort("label")
    labels = ordered["label"]
    cut = 2 * len(labels) // 5
    unseen = [one for one in labels[cut:] if one not in labels[:cut]]
    assert unseen
    names = ordered.features["label"].names
    task = load_task({"train": ordered}, split=f"train[:{cut}]", eval_split=f"train[{cut}:]")
    note = next(one for one in task.notes if "no row to train on has" in one)
    assert note.startswith(f"{len(unseen)} of the {90 - cut} rows to measure on are of classes")
    assert all(names[one] in note for one in set(unseen))
    mixed = load_task({"train": ordered.shuffle(seed=0)}, split="train[:50%]", eval_split="train[50%:]")
    assert not any("no row to train on has" in one for one in mixed.notes)


def of_classes(names, labels):
    rows = picture_dataset(len(labels)).remove_columns("label")
    return rows.add_column("label", labels, feature=ClassLabel(names=names))


def test_folders_in_another_spelling_are_one_class():
    """Folders train/Cat and test/cat: `datasets` gives both splits three classes."""
    names = ["Cat", "cat", "dog"]
    task = load_task((of_classes(names, [0, 2] * 6), of_classes(names, [2, 1, 1])))
    assert task.classes == ["Cat", "dog"]
    assert (task.train["label"][:2], task.evaluation["label"][:]) == ([0, 1], [1, 0, 0])
    assert task.evaluation.features["label"].names == ["Cat", "dog"]
    assert "took 'cat' of the rows to measure on for 'Cat' of those to train on" in task.notes
    assert load_evaluation(of_classes(names, [2, 1, 1])).classes == ["cat", "dog"]
    letters = load_task((of_classes(names, [0, 1, 2] * 4), of_classes(names, [2, 1, 1])))
    assert letters.classes == names
    assert letters.evaluation["label"][:] == [2, 1, 1]
    with pytest.raises(ValueError, match="one class in two spellings, or two classes"):
        load_task((of_classes(names, [0, 2] * 6), of_classes(names, [0, 1, 2])))


def test_numbers_beside_names_are_refused_unless_the_names_are_numbers():
    numbers = picture_dataset(12, seed=1).cast_column("label", Value("int64"))
    with pytest.raises(ValueError, match="the rows to train on name their classes, and those to measure on have"):
        load_task((picture_dataset(12), numbers))
    with pytest.raises(ValueError, match="those to measure on name their classes, and the rows to train on have"):
        load_task((numbers, picture_dataset(12)))
    digits = of_classes(["0", "1"], [0, 1] * 6)
    assert load_task((digits, numbers)).evaluation["label"][:] == numbers["label"][:]
