"""What is saved loads again: configurations describe the weights that models hold."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from samples import tiny_timm, tiny_vit
from tiny import TinyNet
from torch import nn
from transformers import Dinov2Config, Dinov2Model, PretrainedConfig, PreTrainedModel, ViTForImageClassification

from hf_immunize.data.preprocessing import TimmImageProcessor
from hf_immunize.models.pooled import with_head
from hf_immunize.models.rebuilding import check_rebuilds


def changed_vit(change):
    model = tiny_vit()[0]
    change(model)
    return model


def own_head(model):
    model.classifier = nn.Sequential(nn.Dropout(0.1), model.classifier)


def weight_norm(model):
    nn.utils.parametrizations.weight_norm(model.vit.layers[0].mlp.fc1)


def wider_head(model):
    model.classifier = nn.Linear(model.classifier.in_features, 7)


def other_activation(model):
    model.vit.layers[1].mlp.activation_fn = nn.ReLU()


def without_pooling(model):
    model.maxpool = nn.Identity()


def other_stride(model):
    model.conv1[0].stride = (1, 1)


def test_models_of_their_configuration_pass():
    dino = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    sized = {"img_size": 32, "depth": 2, "in_chans": 1, "num_classes": 3, "global_pool": "avg", "drop_rate": 0.2}
    reset = tiny_timm()
    reset.reset_classifier(9)
    for model in (
        tiny_vit()[0],
        torch.compile(tiny_vit()[0]),
        with_head(Dinov2Model(Dinov2Config(**dino)), ["a", "b"]),
        timm.create_model("vit_tiny_patch16_224", **sized),
        reset,
        TinyNet(),
    ):
        check_rebuilds(model)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (without_pooling, r"1 layers .* maxpool: none, MaxPool2d\(kernel_size=3.*by the configuration"),
        (other_stride, r"1 layers .* conv1.0: Conv2d\(.*stride=\(1, 1\).*stride=\(2, 2\)"),
    ],
)
def test_layers_of_the_same_weights_count_too(change, told):
    """As tutorials make a ResNet ready for small images: the weights would load again, into another model."""
    model = timm.create_model("resnet10t", num_classes=2)
    check_rebuilds(model)
    check_rebuilds(nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model)))
    change(model)
    with pytest.raises(ValueError, match=told):
        check_rebuilds(model)


def test_dropouts_may_be_changed():
    model = tiny_vit()[0]
    for one in model.modules():
        if isinstance(one, nn.Dropout):
            one.p = 0.5
    check_rebuilds(model)
    model.vit.embeddings.dropout = nn.Identity()
    check_rebuilds(model)
    model.vit.layernorm = nn.Identity()
    with pytest.raises(ValueError, match="layernorm"):
        check_rebuilds(model)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (other_activation, r"1 layers .*layers.1.mlp.\w+: ReLU\(\), GELUActivation"),
        (own_head, r"4 weights .* classifier.1.weight: \(\d, \d+\), none"),
        (weight_norm, r"fc1.parametrizations.weight.original0: .*, none"),
        (wider_head, r"2 weights .* classifier.weight: \(7, \d+\), \(\d, \d+\).*num_labels"),
    ],
)
def test_what_no_configuration_describes_is_refused(change, told):
    with pytest.raises(ValueError, match=told):
        check_rebuilds(changed_vit(change))


class OwnViT(ViTForImageClassification):
    """As its author builds it, and nobody else."""

    def __init__(self, config):
        super().__init__(config)
        self.classifier = nn.Sequential(nn.Linear(config.hidden_size, 8), nn.Linear(8, config.num_labels))


def test_a_subclass_that_only_its_author_has_is_refused_where_it_builds_otherwise():
    class Renamed(ViTForImageClassification):
        pass

    config = tiny_vit()[0].config
    check_rebuilds(Renamed(config))
    with pytest.raises(ValueError, match=r"classifier.0.weight: .*, none.*and not released"):
        check_rebuilds(OwnViT(config))


def test_a_timm_model_comes_with_timms_preprocessing():
    model = tiny_timm()
    check_rebuilds(model, TimmImageProcessor.from_model(model, 32))
    with pytest.raises(ValueError, match=r"ViTImageProcessor is of another kind: whoever loads"):
        check_rebuilds(model, tiny_vit()[1])


def test_a_head_put_into_a_timm_model_by_hand_is_refused():
    model = timm.create_model("resnet10t", num_classes=2)
    model.fc = nn.Linear(512, 3)
    with pytest.raises(ValueError, match=r"fc.weight: \(3, 512\), \(2, 512\).*reset_classifier"):
        check_rebuilds(model)


class MeanViT(ViTForImageClassification):
    """Pools otherwise than the class that loads."""

    def forward(self, pixel_values=None, **options):
        return super().forward(pixel_values, **options)


class Own(PreTrainedModel):
    config_class = type("OwnConfig", (PretrainedConfig,), {"model_type": "own_net"})

    def __init__(self, config):
        super().__init__(config)
        self.net = TinyNet()
        self.post_init()

    def forward(self, pixel_values):
        return {"logits": self.net(pixel_values)}


def test_a_forward_of_ones_own_travels_with_no_weights():
    with pytest.raises(ValueError, match="MeanViT has a forward of its own, and whoever loads it gets ViTForImage"):
        check_rebuilds(MeanViT(tiny_vit()[0].config))


def test_a_class_that_only_its_author_has_is_refused():
    with pytest.raises(ValueError, match="Own is a class of your own, which whoever loads a release does not have"):
        check_rebuilds(Own(Own.config_class()))


def test_arguments_of_timm_that_no_configuration_holds_are_refused():
    with pytest.raises(ValueError, match=r"made with arguments that no configuration can hold.*act_layer"):
        check_rebuilds(timm.create_model("test_resnet", num_classes=3, act_layer=nn.SiLU))
    check_rebuilds(timm.create_model("test_resnet", num_classes=3, act_layer="silu"))
