"""Class names of a model and of data: brought together by name, or refused; never compared as numbers."""

from __future__ import annotations

import copy

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from samples import tiny_timm, tiny_vit
from tiny import TinyNet, picture_dataset
from transformers import ViTConfig, ViTForImageClassification

from hf_immunize import ImageInputs, ImmunizationArguments, ImmunizationTrainer, evaluate_immunization, immunize
from hf_immunize.models.class_names import in_order_of, model_class_names, name_classes, named_in, why_unmatched


def named(data, names):
    return data.cast_column("label", ClassLabel(names=list(names)))


def test_names_are_those_that_somebody_gave():
    assert model_class_names(tiny_vit(("crow", "owl"))[0]) == ["crow", "owl"]
    assert model_class_names(ViTForImageClassification(ViTConfig(hidden_size=8, num_attention_heads=1))) is None
    assert model_class_names(tiny_timm()) is None
    assert model_class_names(TinyNet()) is None
    assert named_in(tiny_vit(("crow", "owl"))[0].config) == ["crow", "owl"]
    assert named_in(ViTConfig(num_labels=2)) is None
    assert named_in(None, {"label_names": ["crow", "owl"]}) == ["crow", "owl"]
    model = tiny_timm(num_classes=2)
    name_classes(model, ["crow", "owl"])
    assert model_class_names(model) == ["crow", "owl"]
    name_classes(model, ["owl", "crow"])
    assert model_class_names(model) == ["crow", "owl"]


def test_two_mappings_that_contradict_each_other_are_refused():
    model, processor = tiny_vit(("cat", "dog"))
    model.config.label2id = {"cat": "0", "dog": "1"}
    assert model_class_names(model) == ["cat", "dog"]
    model.config.label2id = {"dog": 0, "cat": 1}
    with pytest.raises(ValueError, match="calls class 0 'cat' in id2label, and gives 'cat' the number 1 in label2id"):
        in_order_of(model, ImageInputs(named(picture_dataset(12), ("dog", "cat")), processor), "the primary data")
    model.config.id2label, model.config.label2id = {0: "cat", 2: "dog"}, {"cat": 0, "dog": 2}
    with pytest.raises(ValueError, match=r"numbers its 2 classes 0, 2… in id2label\. They are numbered 0 to 1"):
        model_class_names(model)
    # As ImageNet's cranes: two classes of one name, of which label2id can hold one.
    model.config.id2label, model.config.label2id = {0: "crane", 1: "crane"}, {"crane": 1}
    assert model_class_names(model) == ["crane", "crane"]


def test_labels_are_numbered_as_the_model_numbers_classes_of_the_same_names():
    model, processor = tiny_vit(("cat", "dog"))
    data = ImageInputs(named(picture_dataset(12), ("dog", "cat")), processor)
    moved = in_order_of(model, data, "the primary data")
    assert moved.labels == [1 - label for label in data.labels]
    assert moved.classes == ["cat", "dog"]
    assert [row["labels"] for row in moved.__getitems__([0, 1, 2])] == moved.labels[:3]
    assert any("in the order of the model's classes" in note for note in moved.notes)
    assert in_order_of(model, moved, "the primary data") is moved
    # Where one side names nothing, numbers are all there is.
    assert in_order_of(TinyNet(), data, "the primary data") is data
    numbered = ImageInputs(named(picture_dataset(12), ("0", "1")), processor)
    assert in_order_of(model, numbered, "the primary data") is numbered
    with pytest.raises(ValueError, match=r"name different classes .*'bird'.*new head"):
        in_order_of(model, ImageInputs(named(picture_dataset(8), ("bird", "cat")), processor), "the primary data")


def test_numbers_of_names_that_were_written_as_words_are_numbers():
    names = [f"class {number}" for number in range(12)]
    model, processor = tiny_vit(tuple(names))
    # As tutorials make them, and in the order of words: 0, 1, 10, 11, 2, …
    model.config.id2label = {str(number): name for number, name in enumerate(names)}
    assert model_class_names(model) == names
    data = ImageInputs(picture_dataset(12, n_classes=12), processor)
    assert in_order_of(model, data, "the primary data") is data
    mapped = tiny_timm(num_classes=12)
    mapped.pretrained_cfg["label_names"] = {str(number): name for number, name in enumerate(names)}
    assert model_class_names(mapped) == names


def test_a_model_that_only_numbers_its_classes_takes_those_of_the_training_data(tmp_path):
    model, processor = tiny_vit(("LABEL_0", "LABEL_1"))
    args = ImmunizationArguments(str(tmp_path), per_device_train_batch_size=8, use_cpu=True)
    kept = named(picture_dataset(16, size=32), ("dog", "cat"))
    words = Dataset.from_dict(
        {"image": kept["image"][:4], "label": ["cat"] * 4},
        features=Features({"image": Image(), "label": Value("string")}),
    )
    trainer = ImmunizationTrainer(
        model,
        args,
        train_dataset=kept,
        harmful_dataset=picture_dataset(16, size=32),
        eval_dataset={"swapped": named(picture_dataset(8, size=32), ("cat", "dog")), "words": words},
        processing_class=processor,
    )
    swapped = trainer.eval_dataset["swapped"]
    assert swapped.labels == [1 - label for label in swapped.data["label"]]
    assert trainer.eval_dataset["words"].labels == [1] * 4
    assert trainer._evaluated(words, labels_needed=True).labels == [1] * 4


def test_another_number_of_classes_than_a_model_without_names_has_is_said():
    model, processor = tiny_vit(("LABEL_0", "LABEL_1", "LABEL_2"))

    def data(*names):
        return ImageInputs(named(picture_dataset(8), names), processor)

    told: list[str] = []
    in_order_of(model, data("cat", "dog"), "the data", say=told.append)
    assert len(told) == 1
    assert told[0].startswith("the data name 2 classes ('cat', 'dog') and the model has 3 without names")
    assert why_unmatched(tiny_timm(num_classes=3), data("cat", "dog"), "the data") is not None
    assert why_unmatched(TinyNet(), data("cat", "dog"), "the data", 3) is not None
    # As many, numbers that mean themselves, names of the model's own, and data to measure on beside those trained on.
    assert why_unmatched(model, data("bird", "cat", "dog"), "the data") is None
    assert why_unmatched(model, data("0", "1"), "the data") is None
    assert why_unmatched(model, data("LABEL_2", "LABEL_0"), "the data") is None
    assert why_unmatched(tiny_vit(("a", "b", "c"))[0], data("a", "b"), "the data") is None
    in_order_of(model, data("cat", "dog"), "the data", data("dog", "cat"), told.append)
    assert len(told) == 1


def test_classes_called_by_numbers_are_aligned_where_the_model_has_all_of_them():
    # Folders 0 to 11 come in the order of words: 0, 1, 10, 11, 2, …
    folders = sorted(str(number) for number in range(12))
    model, processor = tiny_vit(tuple(str(number) for number in range(12)))
    data = ImageInputs(named(picture_dataset(12, n_classes=12), tuple(folders)), processor)
    moved = in_order_of(model, data, "the primary data")
    assert moved.labels == [int(folders[label]) for label in data.labels]
    # Numbers from 1 may be another way to count.
    other = ImageInputs(named(picture_dataset(12, n_classes=12), tuple(str(k + 1) for k in range(12))), processor)
    assert in_order_of(model, other, "the primary data") is other


@pytest.fixture(scope="module")
def fitted():
    """A model that tells dark pictures, which it calls cats, from bright ones, and its image processor."""
    model, processor = tiny_vit(("cat", "dog"))
    data = ImageInputs(picture_dataset(60, size=32), processor)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    images = torch.stack([row["pixel_values"] for row in data.__getitems__(range(60))])
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images).logits, torch.tensor(data.labels)).backward()
        optimizer.step()
    return model.eval(), processor


def swapped(n, seed):
    """The same pictures with the classes named and numbered the other way round: dark ones are cats still."""
    data = picture_dataset(n, size=32, seed=seed)
    labels = [1 - label for label in data["label"]]
    return data.remove_columns("label").add_column("label", labels, feature=ClassLabel(names=["dog", "cat"]))


def test_a_model_is_right_about_data_that_number_its_classes_otherwise(fitted, tmp_path):
    model, processor = fitted
    data = swapped(40, 7)
    report = evaluate_immunization(
        copy.deepcopy(model), model, data, picture_dataset(20, size=32), image_processor=processor
    )
    assert report.primary_accuracy["initial"] > 0.9
    args = ImmunizationArguments(str(tmp_path), max_steps=2, per_device_train_batch_size=8, use_cpu=True)
    trainer = ImmunizationTrainer(
        copy.deepcopy(model),
        args,
        train_dataset=swapped(24, 1),
        harmful_dataset=picture_dataset(16, size=32),
        eval_dataset=data,
        processing_class=processor,
    )
    assert trainer.evaluate()["eval_accuracy"] > 0.9
    # So it is about raw pictures that evaluate() and predict() are given.
    assert trainer.evaluate(swapped(30, 9))["eval_accuracy"] > 0.9
    unlabelled = swapped(10, 9).remove_columns("label")
    assert trainer.predict(unlabelled).predictions.shape == (10, 2)


def test_a_release_names_the_classes_that_it_was_trained_on(fitted, tmp_path):
    model, processor = fitted
    args = ImmunizationArguments(str(tmp_path / "run"), max_steps=1, per_device_train_batch_size=8, use_cpu=True)
    options = {"image_processor": processor, "attackers": None, "control": False}
    harmful = picture_dataset(30, size=32)
    run = immunize(copy.deepcopy(model), (swapped(24, 1), swapped(20, 2)), harmful, args, **options)
    assert run.record.primary.classes == ["cat", "dog"]
    assert run.model.config.id2label == {0: "cat", 1: "dog"}
    assert run.results["primary_accuracy"]["initial"] > 0.9
    nameless = copy.deepcopy(model)
    nameless.config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    run = immunize(nameless, (swapped(24, 1), swapped(20, 2)), harmful, args, **options)
    assert run.model.config.id2label == {0: "dog", 1: "cat"}
    assert run.results["primary_accuracy"]["initial"] < 0.1
