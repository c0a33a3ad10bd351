"""Pictures that two data sets share are counted without decoding one, in data of any kind."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset, Features, Image, Value, concatenate_datasets
from pictures import processor
from PIL import Image as PILImage
from tiny import Images, picture_dataset
from torch.utils.data import ConcatDataset, Subset

from hf_immunize.data import overlap as module
from hf_immunize.data.fingerprint import file_of, path_of
from hf_immunize.data.images import ImageInputs
from hf_immunize.data.overlap import Overlap, check_apart, overlap

TRAIN, OTHER = picture_dataset(20), picture_dataset(8, seed=1)
# Rows 8 to 10 are three of those to train on.
MIXED = concatenate_datasets([OTHER, TRAIN.select([3, 7, 11])])


def inputs(rows):
    return ImageInputs(rows, processor())


def folder(rows, path):
    """The same pictures as files of their own, by their paths alone."""
    path.mkdir()
    for number, image in enumerate(rows["image"]):
        image.save(path / f"{number}.png")
    return Dataset.from_dict(
        {"image": [str(path / f"{number}.png") for number in range(len(rows))], "label": rows["label"]},
        features=Features({"image": Image(), "label": Value("int64")}),
    )


def samples(rows):
    return [inputs(rows)[index] for index in range(len(rows))]


@pytest.mark.parametrize(
    "of",
    [inputs, lambda rows: rows, lambda rows: rows.with_transform(lambda batch: batch), samples],
    ids=["inputs", "rows", "transform", "list"],
)
def test_shared_pictures_are_counted(of):
    assert overlap(of(MIXED), of(TRAIN)) == Overlap(3, 8, (11, 20), (11, 20))
    assert overlap(of(OTHER), of(TRAIN)) is None
    assert overlap(of(TRAIN.select([5, 2])), of(TRAIN)).is_whole
    parts = ConcatDataset([of(OTHER), Subset(of(TRAIN), [4, 5])])
    assert overlap(Subset(parts, [0, 8]), of(TRAIN)) == Overlap(1, 1, (2, 20), (2, 20))
    assert overlap(Subset(parts, [0, 1]), of(TRAIN)) is None


def test_columns_of_tensors_and_of_arrays_count_by_their_numbers():
    tensors = Dataset.from_dict({"pixel_values": torch.rand(4, 3, 2, 2).tolist(), "labels": [0, 1, 0, 1]})
    assert overlap(tensors.select([2]), tensors) == Overlap(1, 0, (1, 4), (1, 4))
    arrays = Dataset.from_dict({"image": torch.randint(256, (4, 2, 2, 3)).tolist(), "label": [0, 1, 0, 1]})
    assert overlap(inputs(arrays.select([2])), inputs(arrays)) == Overlap(1, 0, (1, 4), (1, 4))


def test_parts_of_one_data_set_of_any_kind_are_compared_by_their_rows():
    data = Images(10)
    assert overlap(Subset(data, [7, 8, 9]), Subset(data, range(9))) == Overlap(2, 0, (3, 9), (3, 9))
    assert overlap(Subset(data, [9]), Subset(data, range(9))) is None


def test_files_are_read_and_never_decoded(tmp_path, monkeypatch):
    train, mixed = folder(TRAIN, tmp_path / "train"), folder(MIXED, tmp_path / "test")
    monkeypatch.setattr(PILImage, "open", None)
    assert overlap(inputs(mixed), inputs(train)).shared == 3
    (tmp_path / "train" / "0.png").unlink()
    (tmp_path / "test" / "0.png").unlink()
    # Files that are not there are no picture, and so not the same one.
    assert overlap(mixed, train) == Overlap(3, 8, (10, 19), (11, 20))


def test_files_of_a_size_that_the_other_side_has_not_are_not_read(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(module, "file_of", lambda picture: read.append(picture) or file_of(picture))
    rows = [inputs(folder(one, tmp_path / name)) for name, one in (("train", TRAIN), ("test", MIXED))]
    with (tmp_path / "train" / "0.png").open("ab") as file:
        file.write(b"longer than any other")
    assert overlap(rows[1], rows[0]) == Overlap(3, 8, (11, 20), (11, 20))
    assert len(read) == 30
    assert not any(path_of(one).endswith("train/0.png") for one in read)
    (tmp_path / "test" / "8.png").unlink()
    assert overlap(rows[1], rows[0]) == Overlap(2, 9, (10, 20), (11, 20))


def test_of_many_rows_a_share_is_compared_and_that_is_said(monkeypatch):
    monkeypatch.setattr(module, "MOST_COMPARED", 6)
    found = overlap(TRAIN.select(range(18)), TRAIN)
    assert found.looked_at == (6, 6)
    assert found.told("to measure on", "to train on").endswith(
        f"(of 18, drawn by seed 0) are among 6 of the 20 to train on, row {found.first} first"
    )
    assert overlap(MIXED.select([8, 9]), TRAIN.select(range(5, 11))).told("to measure on", "to train on") == (
        "1 of 2 pictures to measure on are among those to train on, row 1 first"
    )


def test_streams_and_what_is_missing_share_nothing():
    assert overlap(TRAIN.to_iterable_dataset(), TRAIN) is None
    assert overlap(None, TRAIN) is None


def test_rows_that_were_all_trained_on_are_no_test():
    with pytest.raises(ValueError, match=r"harmful data .* the same rows \(2 of 2 .*Hold some out"):
        check_apart(inputs(TRAIN), inputs(TRAIN.select([5, 2])), "harmful")
    assert check_apart(inputs(TRAIN), inputs(MIXED), "harmful").endswith("row 8 first: figures on them flatter")
    assert check_apart(inputs(TRAIN), inputs(OTHER), "harmful") is None
