"""Folders of a model and of data sets, and a release trained from them."""

from __future__ import annotations

import pytest
from commands import NAMES, training
from datasets import DatasetDict
from samples import tiny_vit
from tiny import picture_dataset

from hf_immunize.cli.main import main


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Folders of a model and of data sets; the tests write beside them, never into them."""
    folder = tmp_path_factory.mktemp("world")
    model, processor = tiny_vit(NAMES)
    for part in (model, processor):
        part.save_pretrained(folder / "vit")
    model.config.hidden_dropout_prob = 0.2
    for part in (model, processor):
        part.save_pretrained(folder / "dropout")
    DatasetDict({"train": picture_dataset(24, seed=1), "test": picture_dataset(16, seed=2)}).save_to_disk(
        folder / "primary"
    )
    picture_dataset(40, seed=3).save_to_disk(folder / "harmful")
    picture_dataset(30, n_classes=3, seed=4).save_to_disk(folder / "three")
    picture_dataset(30, seed=5).remove_columns("label").save_to_disk(folder / "unlabelled")
    return folder


@pytest.fixture(scope="session")
def released(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("released") / "out"
    assert main(training(world, folder, "--learning_rate", "0.05", "--seed", "3")) == 0
    return folder
