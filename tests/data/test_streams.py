"""Streams of pictures: the same inputs as of a data set, shares, classes, and rows that are drawn."""

from __future__ import annotations

import itertools

import pytest
import torch
from datasets import ClassLabel, Image, IterableDataset
from samples import tiny_vit
from tiny import picture_dataset

from hf_immunize.data.images import ImageInputs
from hf_immunize.data.streams import (
    DrawnSplits,
    StreamedInputs,
    drawn_rows,
    first_samples,
    head,
    is_stream,
    resolved,
)
from hf_immunize.models.class_names import in_order_of

MODEL, PROCESSOR = tiny_vit(("class 1", "class 0"))


def stream(n=20, shards=4, **options):
    return picture_dataset(n, **options).to_iterable_dataset(num_shards=shards)


def untyped(rows):
    rows = list(rows)
    return IterableDataset.from_generator(lambda: iter(rows))


def test_rows_are_those_of_the_data_set():
    data = picture_dataset(40)
    wanted, found = ImageInputs(data, PROCESSOR), list(StreamedInputs(data.to_iterable_dataset(), PROCESSOR))
    assert len(found) == 40
    assert [one["labels"] for one in found] == wanted.labels
    assert torch.equal(found[37]["pixel_values"], wanted[37]["pixel_values"])


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_readers_share_a_pass_and_each_pass_has_another_order(shards, world):
    data = picture_dataset(20)
    inputs = StreamedInputs(data.to_iterable_dataset(num_shards=shards), PROCESSOR)

    def rows(number):
        return [
            [one["pixel_values"].sum().item() for one in inputs.one_pass(number, seed=1, rank=rank, world=world)]
            for rank in range(world)
        ]

    first, second = rows(0), rows(1)
    everything = sorted(one["pixel_values"].sum().item() for one in inputs)
    assert sorted(itertools.chain(*first)) == sorted(itertools.chain(*second)) == everything
    assert first != second
    assert first == rows(0)
    assert min(map(len, first)) > 0


def test_classes_are_numbered_as_the_model_numbers_them():
    data = picture_dataset(12)
    inputs = StreamedInputs(data.to_iterable_dataset(), PROCESSOR)
    moved = in_order_of(MODEL, inputs, "the primary data")
    assert moved.classes == ["class 1", "class 0"]
    assert [one["labels"] for one in moved] == [1 - label for label in data["label"]]
    drawn = moved.drawn(5)
    assert drawn.classes == ["class 1", "class 0"]
    assert drawn.labels == [1 - label for label in inputs.drawn(5).labels]
    other = StreamedInputs(stream(n_classes=3), PROCESSOR)
    with pytest.raises(ValueError, match="name different classes"):
        in_order_of(MODEL, other, "the primary data")


def test_types_that_nobody_said_are_found_by_the_first_rows():
    data = picture_dataset(6)
    inputs = StreamedInputs(untyped({"image": one["image"], "label": one["label"]} for one in data), PROCESSOR)
    assert [one["labels"] for one in inputs] == data["label"][:]
    assert inputs.classes is None
    assert resolved(untyped([{"image": data[0]["image"]}])).features["image"] == Image()


def test_labels_of_any_form_or_none():
    data = picture_dataset(6)
    plain = [{"image": one["image"], "label": float(one["label"])} for one in data]
    assert [one["labels"] for one in StreamedInputs(untyped(plain), PROCESSOR)] == data["label"][:]
    unlabelled = StreamedInputs(data.remove_columns("label").to_iterable_dataset(), PROCESSOR, labels="optional")
    assert set(next(iter(unlabelled))) == {"pixel_values"}
    words = [{"image": one["image"], "label": f"word {one['label']}"} for one in data]
    with pytest.raises(ValueError, match=r"are words, whose numbers a stream does not say.*cast_column"):
        StreamedInputs(untyped(words), PROCESSOR, name="primary")
    named = resolved(untyped(words)).cast_column("label", ClassLabel(names=["word 0", "word 1"]))
    assert [one["labels"] for one in StreamedInputs(named, PROCESSOR)] == data["label"][:]


@pytest.mark.parametrize(
    ("words", "last"),
    [(["0", "1", "2", "10"], "unknown"), (["1", "2"], "01"), (["01", "10"], "1")],
    ids=["name", "padded", "plain"],
)
def test_words_that_are_numbers_are_numbers_in_all_rows_or_refused_with_the_word(words, last):
    """Decided once: the same word of a later batch would have another number, and nobody would know."""
    picture = picture_dataset(1)[0]["image"]
    rows = [{"image": picture, "label": words[k % len(words)]} for k in range(40)]
    inputs = StreamedInputs(untyped(rows), PROCESSOR, name="primary")
    assert [one["labels"] for one in inputs] == [int(one["label"]) for one in rows]
    assert len(inputs.drawn(40)) == 40
    later = StreamedInputs(untyped([*rows, {"image": picture, "label": last}]), PROCESSOR, name="primary")
    with pytest.raises(ValueError, match=rf"of the primary data are words that are numbers .*; '{last}'.*cast_column"):
        list(later)
    with pytest.raises(ValueError, match=rf"'{last}', further on, is no such number"):
        later.drawn(100)
    with pytest.raises(ValueError, match=r"are words, whose numbers a stream does not say"):
        StreamedInputs(untyped([{"image": picture, "label": last}, *rows]), PROCESSOR, name="primary")


def test_a_label_that_is_missing_far_behind_is_said_when_it_comes():
    rows = [{"image": one["image"], "label": 0} for one in picture_dataset(70)]
    rows[60]["label"] = -1
    inputs = iter(StreamedInputs(untyped(rows), PROCESSOR, name="primary"))
    assert next(inputs)["labels"] == 0
    with pytest.raises(ValueError, match=r"rows of the primary data have no label"):
        list(inputs)


def test_columns_are_checked_before_anything_is_read():
    with pytest.raises(ValueError, match=r"no column 'lable'.*Did you mean 'label'"):
        StreamedInputs(stream(), PROCESSOR, label_column="lable")
    with pytest.raises(ValueError, match="The stream is empty"):
        head(stream().filter(lambda row: False))


def test_pictures_that_cannot_be_read_are_left_out_where_that_was_asked_for(tmp_path):
    data = picture_dataset(5).cast_column("image", Image(decode=False))
    rows = [dict(one) for one in data]
    rows[2] = rows[2] | {"image": {"bytes": b"<html>", "path": "page.png"}}
    broken = IterableDataset.from_generator(lambda: iter(rows), features=data.features)
    with pytest.raises(ValueError, match=r"page\.png"):
        list(StreamedInputs(broken, PROCESSOR))
    assert len(list(StreamedInputs(broken, PROCESSOR, skip_corrupt=True))) == 4


def test_drawn_rows_stay_pictures_and_classes():
    rows = drawn_rows(stream(), 6, columns=["image", "label"])
    assert rows.features == picture_dataset(2).features
    assert len(rows) == 6
    assert rows[0]["image"].size == (8, 8)
    assert len(drawn_rows(stream(4), 100)) == 4
    with pytest.raises(ValueError, match="At least one row"):
        drawn_rows(stream(), 0)


def test_splits_are_drawn_when_they_are_looked_at_and_that_is_said():
    notes: list[str] = []
    kept = picture_dataset(3)
    splits = DrawnSplits({"train": stream(), "test": stream(8), "kept": kept}, {"test": 5}, 7, 0, notes)
    assert list(splits) == ["train", "test", "kept"]
    assert notes == []
    assert (len(splits["test"]), len(splits["train"])) == (5, 7)
    assert splits["kept"] is kept
    assert splits["test"] is splits["test"]
    assert notes == [
        "took 5 rows of the stream 'test', shuffled with a buffer of 1000 by seed 0",
        "took 7 rows of the stream 'train', shuffled with a buffer of 1000 by seed 0",
    ]


def test_which_data_are_a_stream():
    class Torch(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter([{"pixel_values": torch.zeros(3, 2, 2)}] * 3)

    assert is_stream(stream())
    assert is_stream(Torch())
    assert not is_stream(picture_dataset(2))
    assert not is_stream(None)
    assert len(drawn_rows(Torch(), 2)) == len(first_samples(Torch(), 2)) == 2
