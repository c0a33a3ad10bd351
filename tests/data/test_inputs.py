"""What a function was handed → model inputs: rows, streams, model inputs already."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset, DatasetDict
from samples import tiny_vit
from tiny import Images, picture_dataset
from torch.utils.data import ConcatDataset, Subset

from hf_immunize.data.images import ImageInputs
from hf_immunize.data.inputs import as_inputs
from hf_immunize.data.streams import StreamedInputs


@pytest.fixture
def processor():
    return tiny_vit()[1]


def test_raw_data_sets_are_wrapped_and_others_stay(processor):
    pictures = picture_dataset(4)
    assert isinstance(as_inputs(pictures, processor), ImageInputs)
    ready = Images(4)
    assert as_inputs(ready, None) is ready
    transformed = pictures.with_transform(lambda batch: {"pixel_values": batch["image"]})
    assert as_inputs(transformed, None) is transformed
    computed = Dataset.from_dict({"pixel_values": [[[[0.0]]]], "labels": [0]}).with_format("torch")
    assert as_inputs(computed, None) is computed
    with pytest.raises(ValueError, match=r"with the splits train, test was given. Choose one"):
        as_inputs(DatasetDict({"train": pictures, "test": pictures}), processor)


def test_streams_of_pictures_are_wrapped_and_those_of_model_inputs_stay(processor):
    stream = picture_dataset(6).to_iterable_dataset()
    assert isinstance(as_inputs(stream, processor), StreamedInputs)
    ready = stream.map(lambda row: {"pixel_values": torch.zeros(3, 4, 4), "labels": row["label"]})
    assert as_inputs(ready, None) is ready


@pytest.mark.parametrize("wrapped", [True, False])
def test_so_many_rows_of_a_stream_where_rows_are_needed(processor, wrapped):
    stream = picture_dataset(9).to_iterable_dataset()
    given = as_inputs(stream, processor) if wrapped else stream
    drawn = as_inputs(given, processor, most=5)
    assert isinstance(drawn, ImageInputs)
    assert len(drawn) == 5
    assert len(drawn.labels) == 5


def test_raw_pictures_of_any_form_are_wrapped(processor):
    pictures = picture_dataset(6)
    stored = pictures["label"][:]
    for given in (list(pictures), pictures.to_pandas()):
        found = as_inputs(given, processor)
        assert isinstance(found, ImageInputs)
        assert [row["labels"] for row in found] == stored
    part = as_inputs(Subset(pictures, [4, 2]), processor)
    assert isinstance(part, ImageInputs)
    assert part.labels == [stored[4], stored[2]]
    both = as_inputs(ConcatDataset([pictures, part]), processor)
    assert len(both) == 8
    assert both[7]["labels"] == stored[2]
    assert both[0]["pixel_values"].shape == (3, 32, 32)
    ready = Subset(Images(4), [1])
    assert as_inputs(ready, processor) is ready


def test_bytes_that_a_processor_leaves_become_numbers(processor):
    processor.do_rescale = processor.do_normalize = False
    assert as_inputs(picture_dataset(2), processor)[0]["pixel_values"].dtype == torch.float32


def test_a_name_is_no_data_set(processor):
    with pytest.raises(TypeError, match=r"got its name. Load it first: load_images\('me/birds', 'train'\)"):
        as_inputs("me/birds", processor)


def test_a_transform_that_is_set_later_runs(processor):
    pictures, seen = picture_dataset(6), []
    inputs = as_inputs(pictures, processor)
    assert not seen

    def transform(batch):
        seen.extend(batch["image"])
        return batch

    pictures.set_transform(transform)
    assert inputs[2]["pixel_values"].shape == (3, 32, 32)
    assert len(seen) == 1


def test_what_is_no_image_processor_is_told_from_one_that_is_broken():
    with pytest.raises(ValueError, match=r"transform of torchvision belongs to the data set"):
        as_inputs(picture_dataset(2), lambda image: image)[0]


def test_indices_that_count_from_the_end_are_those_of_torch():
    data = picture_dataset(6, seed=3)
    part = as_inputs(Subset(data, [-1, 0]), tiny_vit()[1])
    assert part.labels == [data["label"][5], data["label"][0]]
    with pytest.raises(IndexError):
        as_inputs(Subset(data, [-7]), tiny_vit()[1])
