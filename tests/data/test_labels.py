"""Labels in the forms in which people store them."""

from __future__ import annotations

import re

import pytest
import torch
from datasets import Dataset
from pictures import labelled
from samples import tiny_vit
from tiny import picture_dataset

from hf_immunize.data.images import ImageInputs
from hf_immunize.data.labels import check_labels, numbers_as_words, other_word, read_labels, whole_numbers
from hf_immunize.data.task import load_evaluation, load_task


@pytest.mark.parametrize(
    ("column", "values", "classes", "note"),
    [
        ([0, 1, 2, 1], [0, 1, 2, 1], None, None),
        ([True, False, True], [1, 0, 1], None, "False = 0 and True = 1"),
        ([0.0, 1.0, 2.0], [0, 1, 2], None, "as whole ones"),
        (["3", "10", "0"], [3, 10, 0], None, "the words of 'label' as whole numbers"),
        (["01", "02", "01"], [1, 2, 1], None, "the words of 'label' as whole numbers"),
        (["01", "1", "2", "1"], [0, 1, 2, 1], ["01", "1", "2"], "numbered the 3 names in 'label' in alphabetical"),
        (["dog", "cat", "dog"], [1, 0, 1], ["cat", "dog"], "the 2 names in 'label' in alphabetical order"),
        ([[0, 1], [1, 0]], [1, 0], None, "one-hot"),
        ([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], [2, 0], None, "one-hot"),
    ],
)
def test_labels_that_can_be_read_in_one_way_are_taken(column, values, classes, note):
    found = read_labels(labelled(column), "label")
    assert (found.values, found.classes) == (values, classes)
    assert note is None or note in found.notes[0]
    inputs = ImageInputs(labelled(column), tiny_vit()[1])
    assert (inputs.labels, inputs.classes) == (values, classes)
    assert inputs[0]["labels"] == values[0]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([0, None, 1], r"1 of the 3 rows of the primary data have no label .*filter"),
        ([0, -1, -1], r"2 of the 3 rows of the primary data have no label .column 'label' is −1"),
        ([0.5, 1.0], "holds fractions such as 0.5"),
        ([[1, 1], [0, 1]], r"lists such as \[1.0, 1.0\]: one class an image"),
        ([["a"], ["b"]], r"lists such as \['a'\]"),
        ([f"caption {k}" for k in range(40)], "40 different words in 40 rows: hardly classes"),
    ],
)
def test_labels_that_are_none_say_so_in_plain_words(column, message):
    with pytest.raises(ValueError, match=message) as refusal:
        read_labels(labelled(column), "label", "primary")
    assert "torch" not in str(refusal.value)
    # Where they are not needed, they stop nothing.
    for use in ("optional", "unused"):
        assert ImageInputs(labelled(column), tiny_vit()[1], labels=use).labels is None
    task = load_task(labelled(column if len(column) > 9 else column * 6), labels="optional")
    assert task.label_column is None
    assert any("left the labels out, since the data to train on ha" in note for note in task.notes)


def test_no_labels_at_all_are_none():
    missing = labelled([-1] * 8)
    assert ImageInputs(missing, tiny_vit()[1], labels="optional").labels is None
    assert ImageInputs(missing, tiny_vit()[1], labels_needed=False).labels is None


def test_tensors_of_labels_in_plain_words():
    assert whole_numbers(torch.tensor([0.0, 2.0]), "primary").tolist() == [0, 2]
    with pytest.raises(ValueError, match=r"got 3 numbers an image. Of one-hot rows"):
        whole_numbers(torch.eye(3), "primary")
    with pytest.raises(ValueError, match=r"counted from 1. Subtract 1"):
        check_labels([1, 2, 3], 3, "primary")
    with pytest.raises(ValueError, match="have no label as a rule"):
        check_labels([-1, 2], 3, "primary")
    with pytest.raises(ValueError, match="have no rows"):
        check_labels([], 3, "primary")


def test_a_task_has_whole_numbers_and_names():
    words = labelled(["dog", "cat"] * 10)
    task = load_task((words, labelled(["cat"] * 4)))
    assert task.classes == ["cat", "dog"]
    assert task.train["label"][:2] == [1, 0]
    assert task.evaluation.features["label"].names == ["cat", "dog"]
    assert set(task.evaluation["label"]) == {0}
    assert load_task(words).evaluation.features["label"].names == ["cat", "dog"]
    assert any("alphabetical" in note for note in task.notes)
    task = load_task(labelled([1, 2, 3] * 5))
    assert any("no row has the label 0: the numbers in 'label' begin with 1" in note for note in task.notes)
    assert load_evaluation(labelled([True, False] * 5)).evaluation["label"][:2] == [1, 0]


def test_inputs_of_a_task():
    train, evaluation = load_task(picture_dataset(20)).inputs(tiny_vit()[1], name="primary")
    assert (len(train), len(evaluation)) == (16, 4)
    assert train[0]["pixel_values"].shape == (3, 32, 32)
    assert train.labels is not None
    task = load_evaluation(picture_dataset(6), labels="unused")
    one, two = task.inputs(tiny_vit()[1])
    assert one is two
    assert one.labels is None


def test_labels_must_lie_inside_the_head():
    check_labels([0, 2, 1], 3, "primary")
    with pytest.raises(ValueError, match=r"primary labels run from 0 to 3, but .* 3 classes \(0 to 2\).*num_labels=4"):
        check_labels([0, 3], 3, "primary")
    with pytest.raises(ValueError, match="run from -1 to 1"):
        check_labels(torch.tensor([-1, 1]), 3, "primary")
    with pytest.raises(ValueError, match="must be whole numbers"):
        check_labels([0.0, 0.5], 3, "primary")
    with pytest.raises(ValueError, match=r"labels of the primary data must be whole numbers.*got 'cat'.*class_encode"):
        check_labels(["cat", "dog"], 3, "primary")
    with pytest.raises(ValueError, match="must be whole numbers, one an image, got None"):
        check_labels([0, None], 3, "primary")


def test_how_words_that_are_numbers_are_written():
    assert numbers_as_words(["9", " 10"]) == 0
    assert numbers_as_words(["09", "10"]) == 2
    for words in (["01", "1"], ["1", "one"], [1, 2], ["-1"], []):
        assert numbers_as_words(words) is None
    assert other_word(["1", "01"], 0) == "01"
    assert other_word(["01", "1"], 2) == "1"
    assert other_word(["01", "12"], 2) is None


@pytest.mark.parametrize("values", [["a", "b", None, "", " "], [0, 1, -1, None]])
def test_the_advice_on_missing_labels_works_as_it_is_written(values):
    data = Dataset.from_dict({"label": values})
    with pytest.raises(ValueError, match="have no label") as told:
        read_labels(data, "label")
    advice = re.search(r"dataset\.filter\(.*\)(?=\.$)", str(told.value)).group()
    left = eval(advice, {"dataset": data})
    assert left["label"] == values[:2]
    assert read_labels(left, "label").values == [0, 1]
