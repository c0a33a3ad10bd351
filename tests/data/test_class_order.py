"""Class names and labels of data of any kind: brought into one order by name, or refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Value
from samples import tiny_vit
from tiny import Images, picture_dataset
from torch.utils.data import ConcatDataset, Subset

from hf_immunize.data.class_order import (
    in_one_order,
    in_one_spelling,
    is_labelled,
    labels_of,
    names_of,
    numbered_alike,
    numbered_as,
    numbers_for_names,
)
from hf_immunize.data.images import ImageInputs

SIDES = {"what": "the data", "other": "the model"}


def pictures(*names, n=12, seed=0):
    return picture_dataset(n, n_classes=len(names), seed=seed).cast_column("label", ClassLabel(names=list(names)))


def inputs(*names, **options):
    return ImageInputs(pictures(*names, **options), tiny_vit()[1])


def transformed(data, number=lambda label: label):
    """As the example scripts of transformers do: a transform makes model inputs, and labels stay beside them."""

    def transform(batch):
        images = [torch.zeros(3, 4, 4) for _ in batch["image"]]
        return {"pixel_values": images, "label": [number(label) for label in batch["label"]]}

    return data.with_transform(transform)


class Folder(torch.utils.data.Dataset):
    """What torchvision's ImageFolder gives."""

    classes, targets, target_transform = ["cat", "dog"], [0, 1, 1], None

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return torch.zeros(3, 4, 4), self.targets[index]


def test_names_and_labels_are_found_in_data_of_any_kind():
    data = inputs("dog", "cat")
    part = Subset(data, [3, 5])
    both = ConcatDataset([part, inputs("dog", "cat", seed=1)])
    assert names_of(data) == names_of(part) == names_of(both) == ["dog", "cat"]
    assert labels_of(part) == [data.labels[3], data.labels[5]]
    assert labels_of(both)[:2] == labels_of(part)
    assert len(labels_of(both)) == 14
    ready = transformed(pictures("dog", "cat"))
    assert names_of(ready) == ["dog", "cat"]
    assert labels_of(ready) == ready.with_format(None)["label"][:]
    # A transform that numbers the classes itself has the last word.
    moved = transformed(pictures("dog", "cat"), lambda label: 1 - label)
    assert names_of(moved) is None
    assert labels_of(moved) is None
    assert names_of(Folder()) == ["cat", "dog"]
    assert labels_of(Folder()) == [0, 1, 1]
    own = Folder()
    own.target_transform = lambda label: 1 - label
    assert names_of(own) is None
    assert labels_of(own) is None
    own = Folder()
    own.classes = [("tench", "Tinca tinca"), ("goldfish",)]
    assert names_of(own) == ["tench, Tinca tinca", "goldfish"]
    assert names_of(Images(4)) is None


def test_parts_of_wrapped_pictures_are_numbered_anew():
    data, other = inputs("dog", "cat"), inputs("cat", "dog", seed=1)
    part = numbered_as(Subset(data, [3, 5]), ["cat", "dog"], **SIDES)
    assert [part[at]["labels"] for at in range(2)] == [1 - data.labels[3], 1 - data.labels[5]]
    both = numbered_as(ConcatDataset([data, other]), ["cat", "dog"], **SIDES)
    assert labels_of(both) == [*(1 - label for label in data.labels), *other.labels]
    assert both.datasets[1] is other
    same = Subset(other, [0])
    assert numbered_as(same, ["cat", "dog"], **SIDES) is same
    alike = numbered_alike(data, other, what="the test data", other="the training data")
    assert alike.labels == [1 - label for label in data.labels]
    assert numbered_alike(data, Images(3), **SIDES) is data


def test_the_parts_of_a_set_are_brought_into_one_order():
    data, other = inputs("dog", "cat"), inputs("cat", "dog", seed=1)
    both = in_one_order(Subset(ConcatDataset([data, other]), [0, 1, len(data), len(data) + 1]), what="the data")
    assert labels_of(both) == [*data.labels[:2], *(1 - label for label in other.labels[:2])]
    assert names_of(both) == ["dog", "cat"]
    # The part with most classes gives the order.
    three = inputs("cat", "dog", "emu")
    merged = in_one_order(ConcatDataset([data, three]), what="the data")
    assert labels_of(merged) == [*(1 - label for label in data.labels), *three.labels]
    assert names_of(merged) == ["cat", "dog", "emu"]
    assert in_one_order(data, what="the data") is data
    alike = ConcatDataset([data, data])
    assert in_one_order(alike, what="the data") is alike
    with pytest.raises(ValueError, match="emu"):
        in_one_order(ConcatDataset([inputs("cat", "dog", "yak"), three]), what="the data")


def test_a_stream_of_model_inputs_that_names_its_classes_is_known():
    rows = {"pixel_values": torch.zeros(2, 3, 4, 4).tolist(), "label": [0, 1]}
    stream = Dataset.from_dict(rows).cast_column("label", ClassLabel(names=["dog", "cat"])).to_iterable_dataset()
    assert names_of(stream) == ["dog", "cat"]
    assert labels_of(stream) is None
    with pytest.raises(ValueError, match="number the same classes otherwise"):
        numbered_as(stream, ["cat", "dog"], **SIDES)


@pytest.mark.parametrize("data", [transformed(pictures("cat", "dog")), Folder()], ids=["transform", "torchvision"])
def test_model_inputs_of_another_order_are_refused(data):
    assert numbered_as(data, ["cat", "dog"], **SIDES) is data
    with pytest.raises(ValueError, match=r"otherwise: 'cat' is 0 in the data and 1 in the model. Number them alike"):
        numbered_as(data, ["dog", "cat"], **SIDES)
    with pytest.raises(ValueError, match=r"name different classes"):
        numbered_as(data, ["dog", "bird"], **SIDES)


def without_names(data):
    return data.cast_column("label", Value("int64"))


def test_numbers_beside_names_are_refused_where_they_could_be_named():
    named, other = inputs("cat", "dog"), pictures("cat", "dog", seed=1)
    numbers = ImageInputs(without_names(other), tiny_vit()[1])
    for data, like in ((numbers, named), (named, numbers), (Subset(numbers, [0, 1]), named)):
        with pytest.raises(ValueError, match=r"name their classes, and .* have numbers, which may mean anything. Cast"):
            numbered_alike(data, like, **SIDES)
    with pytest.raises(ValueError, match="which may mean anything"):
        numbered_alike(transformed(without_names(other)), named, **SIDES)
    assert numbered_alike(numbers, numbers, **SIDES) is numbers
    assert numbered_alike(numbers.without_labels(), named, **SIDES).labels is None
    # MNIST calls its classes 0 to 9.
    assert numbered_alike(numbers, inputs("0", "1"), **SIDES) is numbers


def test_numbers_beside_names_are_said_where_nothing_could_name_them():
    said = "the data have numbers where the model name their classes: took 0 for 'cat', 1 for 'dog' and so on"
    assert numbers_for_names(Images(4), inputs("cat", "dog"), **SIDES) == said
    assert numbers_for_names(inputs("cat", "dog"), Images(4), **SIDES).startswith(
        "the model have numbers where the data"
    )
    assert numbers_for_names(Images(4, labels=False), inputs("cat", "dog"), **SIDES) is None
    assert numbers_for_names(Images(4), Images(4), **SIDES) is None


def of_classes(names, labels):
    rows = picture_dataset(len(labels)).remove_columns("label")
    return ImageInputs(rows.add_column("label", labels, feature=ClassLabel(names=names)), tiny_vit()[1])


TWINS = ["Cat", "cat", "dog"]


def test_a_class_in_two_spellings_is_one_where_that_is_plain():
    train, test = of_classes(TWINS, [0, 2, 0, 2]), of_classes(TWINS, [1, 2, 1])
    moved = numbered_alike(test, train, **SIDES)
    assert (moved.labels, moved.classes) == ([0, 2, 0], TWINS)
    assert "took 'cat' for 'Cat' of the model" in moved.notes[-1]
    assert labels_of(in_one_spelling(ConcatDataset([Subset(test, [0]), test]), train, **SIDES)) == [0, 0, 2, 0]
    # As letters are, in both cases.
    letters = of_classes(TWINS, [0, 1, 2])
    assert numbered_alike(test, letters, **SIDES) is test
    assert numbered_alike(train, train, **SIDES) is train
    with pytest.raises(ValueError, match=r"have rows of 'Cat', 'cat', and the model have 'Cat' alone.*Rename"):
        numbered_alike(letters, train, **SIDES)
    with pytest.raises(ValueError, match=r"spell a class otherwise \('cat' for 'Cat'\)"):
        numbered_alike(transformed(test.data), train, **SIDES)


class Own(Images):
    """A data set of the user's own with something else under ``labels``."""

    def __init__(self, labels):
        super().__init__(6)
        self.labels = labels
        self.y = [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    "labels",
    [["cat", "dog", "emu"], {0: "cat"}, np.zeros((6, 1), int), torch.zeros(6, 5), ["cat"] * 6, [0.5] * 6, [0, 1]],
    ids=["names", "mapping", "column", "attributes", "words", "fractions", "few"],
)
def test_labels_are_a_number_for_each_row_or_something_else(labels):
    assert labels_of(Own(labels)) is None


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_labels_that_a_data_set_of_ones_own_holds(kind):
    assert list(map(int, labels_of(Own(kind([0, 1, 2, 0, 1, 2]))))) == [0, 1, 2, 0, 1, 2]


class Renumbered(Folder):
    """One that keeps the numbers of a file, and gives others."""

    def __getitem__(self, index):
        return torch.zeros(3, 4, 4), 1 - self.targets[index]


def test_labels_of_the_samples_count_and_not_what_is_kept_beside_them(caplog):
    with caplog.at_level("WARNING"):
        assert labels_of(Renumbered()) is None
    assert names_of(Renumbered()) is None
    assert labels_of(Subset(Renumbered(), [0, 1])) is None
    assert "Renumbered keeps the label 0 for row 0, and the sample has 1" in caplog.text
    assert is_labelled(Renumbered())

    class Broken(Folder):
        def __getitem__(self, index):
            raise OSError("no such picture")

    # Said by whoever reads the row.
    assert labels_of(Broken()) == [0, 1, 1]


class Augmented(Folder):
    """A transform that draws, as random crops do."""

    def __getitem__(self, index):
        return torch.rand(3, 4, 4), self.targets[index]


def test_looking_at_samples_draws_nothing_of_the_callers_random_numbers():
    def augment(batch):
        return {"pixel_values": [torch.rand(3, 4, 4) for _ in batch["image"]], "label": batch["label"]}

    for data in (Augmented(), pictures("cat", "dog").with_transform(augment)):
        before = torch.get_rng_state()
        assert names_of(data) == ["cat", "dog"]
        assert len(labels_of(data)) == len(data)
        assert torch.equal(torch.get_rng_state(), before)


def numbers(n=12):
    rows = picture_dataset(n, seed=2)
    return rows.cast_column("label", Value("int64"))


def test_numbers_beside_a_part_that_names_its_classes_are_refused_or_said(caplog):
    named = inputs("cat", "dog")
    for other in (numbers(), ImageInputs(numbers(), tiny_vit()[1]), Subset(numbers(), [1, 2])):
        for parts in ([named, other], [other, named]):
            with pytest.raises(ValueError, match="some parts of the data name their classes, and others have numbers"):
                in_one_order(ConcatDataset(parts), what="the data")
            with pytest.raises(ValueError, match="which may mean anything"):
                in_one_order(Subset(ConcatDataset([ConcatDataset(parts), named]), [0]), what="the data")
    # What cannot name its classes is said; numbers that are names mean the same, and no labels mean nothing.
    in_one_order(ConcatDataset([named, Images(4)]), what="the data")
    assert "the data: Images has numbers where other parts name their classes: took 0 for 'cat'" in caplog.text
    caplog.clear()
    in_one_order(ConcatDataset([inputs("0", "1"), numbers()]), what="the data")
    in_one_order(ConcatDataset([named, Images(4, labels=False), named.without_labels()]), what="the data")
    assert not caplog.text
