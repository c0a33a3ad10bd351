"""A model is run one way, whatever wraps it and however its inputs are given."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers as hf
from backbones import made, small
from tiny import Images, TinyNet
from torch import nn

from hf_immunize import features_and_logits
from hf_immunize.models.extraction import extract_features
from hf_immunize.models.forward import (
    as_weights_are,
    evaluating,
    fast_layout,
    forward,
    logits_of,
    unwrap,
    without_autocast,
)
from hf_immunize.models.trainable import select_trainable


def test_inputs_may_be_a_mapping_with_labels():
    for name in ("ViT", "timm ViT"):
        model, images, _ = made(name)
        expected = features_and_logits(model, images)
        found = features_and_logits(model, {"pixel_values": images, "labels": torch.zeros(3, dtype=torch.long)})
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


class OverLambdas(nn.Module):
    """A convolution of three dimensions beside those of two, as lambda networks have."""

    def __init__(self):
        super().__init__()
        self.stem, self.inside = nn.Conv2d(3, 3, 3, groups=3), nn.Conv3d(1, 1, 3, padding=1)

    def forward(self, pixel_values):
        return self.inside(self.stem(pixel_values).unsqueeze(1)).mean((1, 3, 4))


class ByName(nn.Module):
    """As wrappers hand their inputs on."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, **inputs):
        return self.inner(**inputs)


def test_a_forward_that_takes_keywords_alone_is_given_them():
    model, images = TinyNet().eval(), torch.randn(2, 3, 8, 8)
    for inputs in (images, {"pixel_values": images, "labels": torch.zeros(2)}):
        torch.testing.assert_close(forward(ByName(model), inputs), model(images))


def test_what_cannot_lie_channels_last_lies_as_it_did():
    def run(model):
        return model(torch.zeros(2, 3, 8, 8))

    assert fast_layout(OverLambdas(), run) == torch.contiguous_format
    assert fast_layout(nn.Conv2d(3, 3, 3, groups=3), run) == torch.channels_last
    # Without depthwise convolutions it is slower.
    assert fast_layout(nn.Conv2d(3, 3, 3), run) == torch.contiguous_format


@pytest.mark.parametrize("run_before", [False, True], ids=["fresh", "already compiled"])
def test_a_compiled_model_gives_the_same(run_before):
    torch._dynamo.reset()
    model, images, _ = made("timm ConvNeXt")
    expected = [features_and_logits(model, one) for one in (images, -images)]
    compiled = torch.compile(model, backend="eager")
    if run_before:
        compiled(images)
    for one, (features, logits) in zip((images, -images), expected, strict=True):
        found = features_and_logits(compiled, one)
        torch.testing.assert_close(found[0], features)
        torch.testing.assert_close(found[1], logits)
    found[0].sum().backward()
    assert model.get_submodule("stages.3").blocks[0].conv_dw.weight.grad is not None
    assert unwrap(compiled) is model


def test_a_model_in_distributed_data_parallel_gives_the_same_and_synchronises(tmp_path):
    if not torch.distributed.is_available():
        pytest.skip("torch was built without distributed")
    model, images, _ = made("timm ResNet")
    select_trainable(model, "last", images)
    plain = copy.deepcopy(model)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        features, logits = features_and_logits(wrapped, images)
        (features.square().mean() + logits.square().mean()).backward()
        assert unwrap(wrapped) is model
    finally:
        torch.distributed.destroy_process_group()
    expected, raw = features_and_logits(plain, images)
    torch.testing.assert_close(features, expected)
    torch.testing.assert_close(logits, raw)
    (expected.square().mean() + raw.square().mean()).backward()
    torch.testing.assert_close(model.fc.weight.grad, plain.fc.weight.grad)
    torch.testing.assert_close(model.layer4[1].conv2.weight.grad, plain.layer4[1].conv2.weight.grad)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ImageGPT", {"n_embd": 16, "n_layer": 1, "n_head": 2}, "ImageGPT.* takes input_ids .*only images"),
        ("CLIP", {"vision_config": small(), "text_config": small()}, "CLIPModel takes input_ids"),
        ("Siglip2", {"vision_config": small()}, "Siglip2.* takes spatial_shapes .*one resolution does without"),
    ],
)
def test_a_model_that_takes_more_than_images_is_refused_with_the_reason(name, options, message):
    kind = getattr(hf, f"{name}Model" if name == "CLIP" else f"{name}ForImageClassification")
    with pytest.raises(ValueError, match=message):
        features_and_logits(kind(kind.config_class(**options)), torch.randn(2, 3, 32, 32))


def test_what_is_given_beside_the_images_is_not_missed():
    model = hf.Siglip2ForImageClassification(hf.Siglip2Config(vision_config=small(), num_labels=3))
    packed = {
        "pixel_values": torch.randn(2, 4, 768),
        "pixel_attention_mask": torch.ones(2, 4, dtype=torch.long),
        "spatial_shapes": torch.tensor([[2, 2], [2, 2]]),
    }
    features, logits = features_and_logits(model, packed)
    torch.testing.assert_close(model.classifier(features), logits)


@pytest.mark.parametrize("name", ["ViT", "timm ViT"])
def test_images_that_a_model_does_not_run_on_are_named_with_their_shape(name):
    model, _, _ = made(name)
    with pytest.raises(ValueError, match=r"does not run on images of shape \(2, 3, 30, 30\).*own image processor"):
        features_and_logits(model, torch.randn(2, 3, 30, 30))


def test_logits_under_another_name_are_found_and_a_hidden_state_is_none():
    model = hf.PPLCNetForImageClassification(hf.PPLCNetConfig(scale=0.25, class_expand=32, num_labels=3)).eval()
    images = torch.randn(2, 3, 32, 32)
    features, logits = features_and_logits(model, images)
    torch.testing.assert_close(model.head(features), logits)
    model.config.num_labels = 4
    with pytest.raises(ValueError, match="gives no logits"):
        features_and_logits(model, images)


def test_each_module_has_its_own_mode_again():
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)).train()
    model[1].eval()
    with evaluating(model):
        assert not any(one.training for one in model.modules())
    assert [one.training for one in model.modules()] == [True, True, False]


def test_a_model_that_fails_in_its_own_way_is_said_to_fail_on_these_images():
    model, images, _ = made("ViT")
    # Models of transformers 5 ask their own parts for attributes that a tuple lacks.
    model.config.return_dict = False
    with pytest.raises(ValueError, match=r"does not run on images of shape .*'tuple' object has no attribute"):
        features_and_logits(model, images)


def prepared(model):
    """As `Accelerator(mixed_precision="bf16").prepare` and a Trainer with bf16=True leave a model."""
    model._original_forward = model.forward
    model.forward = torch.autocast("cpu", dtype=torch.bfloat16)(model.forward)
    return model


def test_a_model_that_was_prepared_for_mixed_precision_is_measured_in_its_own():
    plain, images = TinyNet().eval(), Images(6)
    model = prepared(copy.deepcopy(plain))
    expected, logits = features_and_logits(plain, images.x)
    assert not torch.equal(features_and_logits(model, images.x)[1], logits)
    torch.testing.assert_close(extract_features(model, images).features.float(), expected, rtol=0, atol=0)
    # Whoever trains goes on as before.
    assert not torch.equal(features_and_logits(model, images.x)[1], logits)
    with as_weights_are(model), as_weights_are(model):
        assert torch.equal(features_and_logits(model, images.x)[1], logits)
    twin = without_autocast(copy.deepcopy(model))
    assert torch.equal(features_and_logits(twin, images.x)[1], logits)
    assert "forward" not in twin.__dict__
    assert "forward" in model.__dict__
    assert without_autocast(twin) is twin


def test_outputs_of_several_widths_are_said(caplog):
    model = torch.nn.Linear(2, 2)
    rows, logits = torch.zeros(4, 6), torch.ones(4, 3)
    assert logits_of((logits, torch.zeros(4, 3)), model) is logits
    assert not caplog.text
    assert logits_of((rows, logits), model) is rows
    assert "outputs of the widths 6, 3: took the first, of 6, for its logits" in caplog.text


def test_what_the_model_does_not_take_is_left_aside_with_a_word(caplog):
    model = TinyNet().eval()
    batch = {"pixel_values": torch.randn(2, 3, 8, 8), "bbox": torch.zeros(2, 4)}
    with caplog.at_level("WARNING"):
        assert torch.equal(forward(model, batch), model(batch["pixel_values"]))
    assert "TinyNet does not take bbox" in caplog.text
