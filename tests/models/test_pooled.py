"""Backbones without a head: their pooled output is the features, and a fresh head is fitted to the primary task."""

from __future__ import annotations

import pytest
import timm
import torch
import transformers as hf
from backbones import small, stages
from samples import tiny_vit
from tiny import Images, TinyNet
from torch import nn
from trainers import arguments

from hf_immunize import evaluate_immunization, features_and_logits, immunize, load_model
from hf_immunize.models.class_names import model_class_names
from hf_immunize.models.pooled import HEAD_NAME, PooledClassifier, with_head
from hf_immunize.models.trainable import select_trainable

CLASSES = ["crow", "owl", "wren"]
PROCESSOR = hf.ViTImageProcessor(size={"height": 32, "width": 32})
TOWERS = {
    "ViT": lambda: hf.ViTModel(hf.ViTConfig(**small())),
    "ViT without a pooler": lambda: hf.ViTModel(hf.ViTConfig(**small()), add_pooling_layer=False),
    "CLIP": lambda: hf.CLIPVisionModel(hf.CLIPVisionConfig(**small())),
    "SigLIP": lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**small())),
    "DINOv2": lambda: hf.Dinov2Model(hf.Dinov2Config(**small(patch_size=8))),
    "DINOv3": lambda: hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**small())),
    "DINOv3 ConvNeXt": lambda: hf.DINOv3ConvNextModel(hf.DINOv3ConvNextConfig(image_size=32, **FOUR)),
    "ResNet": lambda: hf.ResNetModel(hf.ResNetConfig(embedding_size=8, layer_type="basic", **stages())),
}
FOUR = {"hidden_sizes": [8, 8, 16, 24], "depths": [1, 1, 1, 1]}


def tower(name):
    torch.manual_seed(0)
    return TOWERS[name]().eval()


def images(n, seed):
    data = Images(n, seed=seed)
    data.x = torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) + data.y[:, None, None, None]
    return data


@pytest.mark.parametrize("name", TOWERS)
def test_the_features_of_a_tower_are_its_pooled_output(name):
    model = tower(name)
    pixels = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        output = model(pixel_values=pixels)
    pooled = output.get("pooler_output")
    pooled = output.last_hidden_state.mean(1) if pooled is None else pooled.flatten(1)
    classifier = with_head(model, CLASSES)
    features, logits = features_and_logits(classifier, pixels)
    torch.testing.assert_close(features, pooled)
    torch.testing.assert_close(classifier.classifier(features), logits)
    selection = select_trainable(classifier, "last", pixels)
    assert selection.modules[-1] == "classifier"
    assert 0 < selection.n_parameters < selection.n_total


@pytest.mark.parametrize("name", ["DINOv3", "ViT", "CLIP"])
def test_a_tower_is_fitted_immunized_saved_and_loaded_with_its_head(tmp_path, name):
    tasks = (images(24, 1), images(12, 2)), (images(24, 3), images(12, 4))
    common = {"image_processor": PROCESSOR, "control": False, "attackers": None}
    args = arguments(tmp_path / "run", max_steps=2, per_device_train_batch_size=8, learning_rate=1e-3)
    with pytest.raises(ValueError, match=r"The head is new and would be measured untrained.*fit_steps"):
        immunize(tower(name), *tasks, args, new_head=True, **common)
    run = immunize(tower(name), *tasks, args, new_head=True, fit_steps=3, **common)
    assert run.record.architecture == type(tower(name)).__name__
    folder = run.save(tmp_path / "saved")
    assert (folder / "initial" / HEAD_NAME).is_file()
    loaded = load_model(folder)
    assert isinstance(loaded.model, PooledClassifier)
    assert not loaded.new_head
    found, expected = (features_and_logits(one, tasks[0][1].x[:3]) for one in (loaded.model, run.model.eval()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    again = evaluate_immunization(loaded.model, load_model(folder).model, tasks[0][1], tasks[1][1])
    assert again.rir == 1
    assert "AutoModel.from_pretrained" in (folder / "README.md").read_text()
    # Another number of classes is a new head, and the names of the classes are the data's.
    assert load_model(folder, labels=["a", "b"]).new_head
    own = model_class_names(loaded.model) or [str(number) for number in range(loaded.model.classifier.out_features)]
    assert not load_model(folder, labels=own).new_head
    loaded.model.config.id2label = {number: f"class {number}" for number in range(len(own))}
    loaded.model.config.label2id = {f"class {number}": number for number in range(len(own))}
    loaded.model.save_pretrained(folder)
    other = load_model(folder, labels=[f"kind {number}" for number in range(len(own))])
    assert other.new_head
    assert not torch.equal(other.model.classifier.weight, loaded.model.classifier.weight)


def test_a_checkpoint_that_transformers_has_no_classifier_for_is_loaded_with_a_new_head(tmp_path):
    tower("DINOv3").save_pretrained(tmp_path)
    PROCESSOR.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no trained classification head.*num_labels"):
        load_model(tmp_path)
    loaded = load_model(tmp_path, labels=CLASSES)
    assert loaded.new_head
    assert loaded.architecture == "DINOv3ViTModel"
    assert list(loaded.model.config.id2label.values()) == CLASSES
    pixels = torch.randn(2, 3, 32, 32)
    expected = tower("DINOv3")(pixel_values=pixels).pooler_output
    torch.testing.assert_close(features_and_logits(loaded.model, pixels)[0], expected)


def test_timm_gives_its_own_models_a_head():
    model = timm.create_model("test_resnet", num_classes=0).eval()
    pixels = torch.randn(2, 3, 64, 64)
    pooled = model(pixels)
    assert with_head(model, CLASSES) is model
    features, logits = features_and_logits(model, pixels)
    torch.testing.assert_close(features, pooled)
    assert logits.shape == (2, 3)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: tiny_vit()[0], "has a head already"),
        (lambda: timm.create_model("test_resnet"), r"has a head of 1000 classes.*reset_classifier"),
        (lambda: hf.CLIPModel(hf.CLIPConfig(vision_config=small(), text_config=small())), "takes input_ids"),
        (lambda: nn.Linear(4, 5), r"does not run on images of shape \(1, 3, 224, 224\)"),
    ],
    ids=["a classifier", "a classifier of timm", "two towers", "no images"],
)
def test_what_cannot_be_given_a_head_says_why(build, message):
    with pytest.raises(ValueError, match=message):
        with_head(build(), CLASSES)


def test_a_plain_module_gets_a_head_on_what_it_gives():
    body = nn.Sequential(TinyNet().stem, nn.ReLU())
    features, _ = features_and_logits(with_head(body, CLASSES), torch.randn(2, 3, 8, 8))
    assert features.shape == (2, 12)
