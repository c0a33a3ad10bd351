"""The loader of a training."""

from __future__ import annotations

import pytest
from accelerate import Accelerator
from tiny import Images
from trainers import arguments

from hf_immunize.data.collate import collate_images
from hf_immunize.training.loaders import training_loader
from hf_immunize.training.streaming import PairedStream


def test_batches_of_both_tasks_by_their_sizes(tmp_path):
    args = arguments(tmp_path, per_device_train_batch_size=4, per_device_harmful_batch_size=3)
    loader = training_loader((Images(9), Images(5, labels=False)), args, Accelerator(cpu=True), collate_images, 3)
    batches = list(loader)
    assert len(batches) == 2
    assert batches[0]["primary"]["pixel_values"].shape == (4, 3, 8, 8)
    assert batches[0]["harmful"]["pixel_values"].shape == (3, 3, 8, 8)
    assert not isinstance(loader.dataset, PairedStream)


def test_labels_outside_the_head_are_refused_as_they_come(tmp_path):
    args = arguments(tmp_path, per_device_train_batch_size=9)
    loader = training_loader((Images(9), None), args, Accelerator(cpu=True), collate_images, 2)
    with pytest.raises(ValueError, match="the model's head has 2 classes"):
        next(iter(loader))
