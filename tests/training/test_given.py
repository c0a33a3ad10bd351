"""What a user hands in: names, rows, pairs, loaded tasks; models by name or as they are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from datasets import DatasetDict
from samples import tiny_vit
from tiny import Images, TinyNet, picture_dataset
from torch import nn
from torch.utils.data import TensorDataset

from hf_immunize import ImmunizationArguments, load_task
from hf_immunize.training.given import check_head, loaded_data, loaded_model, model_inputs


@pytest.fixture
def args(tmp_path):
    return ImmunizationArguments(str(tmp_path), use_cpu=True, seed=5)


def test_data_come_by_name_as_rows_as_splits_and_as_pairs(args, tmp_path):
    picture_dataset(30).save_to_disk(tmp_path / "pictures")
    by_name = loaded_data(tmp_path / "pictures", "primary", args, True, None)
    as_rows = loaded_data(picture_dataset(30), "primary", args, True, None)
    assert by_name.name == "pictures"
    assert by_name.eval_split == as_rows.eval_split == "a fifth of train, drawn by seed 5"
    assert by_name.evaluation["label"][:] == as_rows.evaluation["label"][:]
    splits = DatasetDict({"train": picture_dataset(20), "validation": picture_dataset(9, seed=1)})
    assert len(loaded_data(splits, "primary", args, True, None).evaluation) == 9
    task = load_task(picture_dataset(30))
    assert loaded_data(task, "primary", args, True, None) is task
    pair = (Images(8), Images(4))
    assert loaded_data(pair, "harmful", args, True, None) is pair
    with pytest.raises(ValueError, match=r"must be a pair .* got 3 parts"):
        loaded_data((*pair, Images(2)), "harmful", args, True, None)


def test_harmful_labels_are_read_where_an_attacker_or_the_objective_needs_them(args, tmp_path):
    assert loaded_data(picture_dataset(30), "harmful", args, True, None).label_column == "label"
    assert loaded_data(picture_dataset(30), "harmful", args, False, None).label_column is None
    imma = ImmunizationArguments(str(tmp_path), use_cpu=True, objective="imma")
    with pytest.raises(ValueError, match="label"):
        loaded_data(picture_dataset(30).remove_columns("label"), "harmful", imma, False, None)


def test_a_model_is_loaded_by_name_with_its_processor_or_taken_as_it_is(tmp_path):
    for part in tiny_vit(("class 0", "class 1")):
        part.save_pretrained(tmp_path / "vit")
    task = load_task(picture_dataset(30, n_classes=3))
    loaded, processor = loaded_model(tmp_path / "vit", task, None, True)
    assert loaded.new_head
    assert loaded.model.config.id2label == {0: "class 0", 1: "class 1", 2: "class 2"}
    assert processor is loaded.image_processor
    own = replace(loaded, new_head=False)
    again, _ = loaded_model(own, task, None, False)
    # It says where its weights are from, so that a run trains a copy of them.
    assert again.name == own.name
    assert again.model is not own.model
    torch.testing.assert_close(again.model.state_dict(), own.model.state_dict())
    module = TinyNet()
    assert loaded_model(module, task, None, False) == (module, None)
    with pytest.raises(ValueError, match="TinyNet has a head already: score"):
        loaded_model(module, task, None, True)
    with pytest.raises(ValueError, match="new_head is for a model by name or a module"):
        loaded_model(loaded, task, None, True)
    backbone, _ = loaded_model(nn.Sequential(module.stem), task, None, True)
    assert backbone.classifier.out_features == 3
    with pytest.raises(ValueError, match="need an image processor"):
        model_inputs(task, module, None)


def test_labels_outside_the_head_say_what_to_do():
    model, processor = tiny_vit(("class 0", "class 1"))
    check_head(model, model_inputs(load_task(picture_dataset(20)), model, processor))
    with pytest.raises(ValueError, match=r"head has 2 classes.*new_head=True, fit_steps=300"):
        check_head(model, model_inputs(load_task(picture_dataset(30, n_classes=4)), model, processor))


class Keyed(Images):
    """Its labels stand under the name that data sets have them under."""

    def __getitem__(self, index):
        return {"pixel_values": self.x[index], "label": self.y[index]}


def test_a_new_head_has_the_classes_of_samples_of_any_form():
    for rows in (TensorDataset(Images(12).x, Images(12).y), Keyed(12), Images(12)):
        model, _ = loaded_model(nn.Sequential(TinyNet().stem), (rows, rows), None, True)
        assert model.classifier.out_features == 3
    with pytest.raises(ValueError, match=r"needs the classes of the primary data, which have no labels"):
        loaded_model(nn.Sequential(TinyNet().stem), (Images(4, labels=False),) * 2, None, True)
