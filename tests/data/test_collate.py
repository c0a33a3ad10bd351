"""Samples of any form become one batch."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset

from hf_immunize.data.class_order import labels_of
from hf_immunize.data.collate import collate_images, on_device


def test_samples_of_every_form_are_stacked():
    image = torch.randn(3, 4, 4)
    for sample in ({"pixel_values": image, "labels": 2}, (image, 2), {"pixel_values": image, "label": torch.tensor(2)}):
        batch = collate_images([sample, sample])
        assert torch.equal(batch["pixel_values"], torch.stack([image, image]))
        assert batch["labels"].tolist() == [2, 2]
        assert batch["labels"].dtype == torch.int64
    doubled = collate_images([(image.double().numpy(), 2)])["pixel_values"]
    assert torch.equal(doubled[0], image)
    assert doubled.dtype == torch.float32
    mask = torch.ones(5)
    assert collate_images([{"pixel_values": image, "mask": mask}] * 2)["mask"].shape == (2, 5)
    with pytest.raises(ValueError, match=r"Images of different shapes in one batch.*Resize"):
        collate_images([(image, 0), (torch.randn(1, 4, 4), 0)])
    for label in (0.7, torch.tensor(0.7), torch.ones(2)):
        with pytest.raises(ValueError, match=r"must be one whole number"):
            collate_images([(image, label)])
    with pytest.raises(ValueError, match=r"whole numbers \(uint8\), which no image processor has prepared"):
        collate_images([(image.byte(), 0)])
    with pytest.raises(ValueError, match=r"got image, label.*processing_class=image_processor"):
        collate_images([{"image": image, "label": 0}])


def test_the_tensors_of_a_batch_go_to_a_device_and_the_rest_stays_behind():
    batch = {"pixel_values": torch.zeros(1, 3, 2, 2), "labels": torch.zeros(1), "names": ["a"]}
    assert {name: one.device.type for name, one in on_device(batch, "meta").items()} == {
        "pixel_values": "meta",
        "labels": "meta",
    }


@pytest.mark.parametrize("keys", [("labels", "label"), ("label", "labels")])
def test_labels_come_before_label_in_whatever_order_they_stand(keys):
    """As in transformers: ``labels`` are what the model is to learn, ``label`` is what was kept from before."""
    values = {"labels": 3, "label": "cat"}
    sample = {"pixel_values": torch.zeros(3, 4, 4), **{key: values[key] for key in keys}}
    assert collate_images([sample])["labels"].tolist() == [3]
    data = Dataset.from_list([{"pixel_values": [[[0.0]]], **{k: {"labels": 1, "label": 0}[k] for k in keys}}] * 2)
    assert labels_of(data) == [1, 1]


def test_further_tensors_of_several_shapes_are_left_aside_with_a_word(caplog):
    samples = [
        {"pixel_values": torch.zeros(3, 4, 4), "labels": 0, "mask": torch.ones(5), "bbox": torch.zeros(n, 4)}
        for n in (1, 2)
    ]
    with caplog.at_level("WARNING"):
        assert set(collate_images(samples)) == {"pixel_values", "labels", "mask"}
    assert "'bbox' differs in shape" in caplog.text
