"""What is found out about rows on the way to a task."""

from __future__ import annotations

import pytest
from datasets import ClassLabel, Image, Value
from pictures import labelled
from tiny import picture_dataset

from hf_immunize.data.task import load_task


def test_what_is_measured_has_the_numbers_of_what_is_trained():
    names = ["cat", "dog"]
    train = labelled([0, 1] * 6, ClassLabel(names=names))
    swapped = labelled([0, 1, 1], ClassLabel(names=names[::-1]))
    task = load_task((train, swapped))
    assert task.evaluation["label"][:] == [1, 0, 0]
    assert any("by name" in note for note in task.notes)
    with pytest.raises(ValueError, match="the rows to measure on and the rows to train on name different classes"):
        load_task((train, labelled([0, 1], ClassLabel(names=["cat", "cow"]))))
    with pytest.raises(
        ValueError, match="the rows to train on name their classes, and those to measure on have numbers"
    ):
        load_task((train, labelled([0, 1, 1])))


def test_several_columns_that_could_be_the_labels():
    data = picture_dataset(20).rename_column("label", "kind")
    data = data.add_column("domain", [0] * 20, feature=ClassLabel(names=["photo"])).rename_column("kind", "label")
    data = data.select_columns(["image", "domain", "label"])
    task = load_task(data)
    assert task.label_column == "label"
    assert any("'label' for the labels; 'domain' could be meant too" in note for note in task.notes)
    assert load_task(data, label_column="domain").classes == ["photo"]
    assert load_task(data, labels="unused").label_column is None


def test_numbers_under_a_usual_name_are_labels_as_well_as_any():
    data = picture_dataset(20).cast_column("label", Value("int64"))
    data = data.add_column("domain", [0] * 20, feature=ClassLabel(names=["photo"]))
    data = data.add_column("depth", [{"bytes": None, "path": "none.png"}] * 20, feature=Image())
    task = load_task(data)
    assert (task.image_column, task.label_column, task.classes) == ("image", "label", None)
    assert any("'image' for the pictures; 'depth' could be meant too (image_column)" in note for note in task.notes)
    assert any("'label' for the labels; 'domain' could be meant too (label_column)" in note for note in task.notes)


def test_broken_pictures_are_left_out_where_that_was_asked_for(tmp_path):
    for number in range(24):
        path = tmp_path / f"kind{number % 2}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        picture_dataset(1, seed=number)[0]["image"].save(path)
    (tmp_path / "kind0" / "4.png").write_bytes(b"<html>")
    assert len(load_task(tmp_path).train) + len(load_task(tmp_path).evaluation) == 24
    task = load_task(tmp_path, skip_corrupt=True)
    assert len(task.train) + len(task.evaluation) == 23
    assert any("left out 1 of 24 pictures to train on" in note and "4.png" in note for note in task.notes)


def test_classes_whose_names_are_nearly_the_same_are_said():
    words = labelled(["cat", "Cat", "dog ", " dog"] * 4, Value("string"))
    task = load_task(words)
    assert task.classes == ["Cat", "cat", "dog"]
    assert "took 'Cat', 'cat' for classes of their own, though their names are nearly the same" in task.notes
    with pytest.raises(ValueError, match=r"4 of the 16 rows .* have no label"):
        load_task(labelled(["cat", "dog", "dog", " "] * 4, Value("string")))
