"""Backbones of both libraries: features, what trains, what stays still, and the frozen part run once."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import transformers as hf
from tiny import TinyNet
from torch import nn

from hf_immunize import features_and_logits
from hf_immunize.models.forward import unwrap
from hf_immunize.models.frozen_prefix import CachedActivations, FrozenPrefix
from hf_immunize.models.head import find_head
from hf_immunize.models.trainable import keep_still, modules_before_training, select_trainable

N_CLASSES = 3


def small(**options):
    values = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
    return values | {"image_size": 32, "patch_size": 16, "num_labels": N_CLASSES} | options


def stages(**options):
    return {"hidden_sizes": [8, 16, 24], "depths": [1, 1, 2], "num_labels": N_CLASSES} | options


def with_timm(name, **options):
    return lambda: timm.create_model(name, num_classes=N_CLASSES, **options)


# name: how to make it, its image size, and the modules that "last" must choose, with the head last.
MODELS = {
    "ResNet": (
        lambda: hf.ResNetForImageClassification(hf.ResNetConfig(embedding_size=8, layer_type="basic", **stages())),
        32,
        ["resnet.encoder.stages.2", "classifier.1"],
    ),
    "ViT": (
        lambda: hf.ViTForImageClassification(hf.ViTConfig(**small())),
        32,
        ["vit.layers.2", "vit.layernorm", "classifier"],
    ),
    "DeiT": (
        lambda: hf.DeiTForImageClassification(hf.DeiTConfig(**small())),
        32,
        ["deit.layers.2", "deit.layernorm", "classifier"],
    ),
    "DeiT, distilled": (
        lambda: hf.DeiTForImageClassificationWithTeacher(hf.DeiTConfig(**small())),
        32,
        ["deit.layers.2", "deit.layernorm", "cls_classifier", "distillation_classifier"],
    ),
    "Swin": (
        lambda: hf.SwinForImageClassification(
            hf.SwinConfig(
                image_size=32, embed_dim=8, depths=[1, 2], num_heads=[1, 2], window_size=4, num_labels=N_CLASSES
            )
        ),
        32,
        ["swin.encoder.layers.1", "swin.layernorm", "classifier"],
    ),
    "ConvNeXt": (
        lambda: hf.ConvNextForImageClassification(hf.ConvNextConfig(num_stages=3, **stages())),
        32,
        ["convnext.encoder.stages.2", "convnext.layernorm", "classifier"],
    ),
    "DINOv2": (
        lambda: hf.Dinov2ForImageClassification(hf.Dinov2Config(**small(image_size=28, patch_size=14, mlp_ratio=2))),
        28,
        ["dinov2.encoder.layer.2", "dinov2.layernorm", "classifier"],
    ),
    "EfficientNet": (
        lambda: hf.EfficientNetForImageClassification(
            hf.EfficientNetConfig(width_coefficient=0.2, depth_coefficient=0.1, hidden_dim=256, num_labels=N_CLASSES)
        ),
        32,
        ["efficientnet.encoder.blocks.6", "efficientnet.encoder.top_conv", "efficientnet.encoder.top_bn", "classifier"],
    ),
    "MobileNetV1": (
        lambda: hf.MobileNetV1ForImageClassification(
            hf.MobileNetV1Config(depth_multiplier=0.1, num_labels=N_CLASSES, classifier_dropout_prob=0.5)
        ),
        32,
        ["mobilenet_v1.layer.25", "classifier"],
    ),
    "MobileNetV2": (
        lambda: hf.MobileNetV2ForImageClassification(
            hf.MobileNetV2Config(depth_multiplier=0.2, num_labels=N_CLASSES, classifier_dropout_prob=0.5)
        ),
        32,
        ["mobilenet_v2.layer.15", "mobilenet_v2.conv_1x1", "classifier"],
    ),
    "timm ResNet": (with_timm("resnet18"), 64, ["layer4", "fc"]),
    "timm ViT": (with_timm("test_vit"), 160, ["blocks.5", "norm", "head"]),
    "timm DeiT, distilled": (
        with_timm("deit_tiny_distilled_patch16_224", img_size=64, depth=3, embed_dim=48),
        64,
        ["blocks.2", "norm", "head", "head_dist"],
    ),
    "timm Swin": (
        with_timm(
            "swin_tiny_patch4_window7_224", img_size=64, window_size=4, embed_dim=24, depths=(1, 2), num_heads=(1, 2)
        ),
        64,
        ["layers.1", "norm", "head.fc"],
    ),
    "timm ConvNeXt": (with_timm("test_convnext"), 64, ["stages.3", "head.norm", "head.fc"]),
    "timm DINOv2": (
        with_timm("vit_small_patch14_dinov2", img_size=56, depth=3, embed_dim=48, num_heads=2),
        56,
        ["blocks.2", "norm", "head"],
    ),
    "timm EfficientNet": (with_timm("tf_efficientnet_lite0"), 64, ["blocks.6", "conv_head", "bn2", "classifier"]),
    "timm MobileNetV3": (with_timm("mobilenetv3_small_050"), 64, ["blocks.5", "conv_head", "classifier"]),
}


def spread(model):
    """Other weights than those of a fresh model, which leave some of these with features of 1e-24 and empty heads."""
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(noise * (2 / parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else parameter + noise / 50)
    return model


def made(name):
    build, size, expected = MODELS[name]
    torch.manual_seed(0)
    model = build().eval()
    return spread(model), torch.randn(3, 3, size, size), expected


def logits_of(model, images):
    output = model(images)
    return output.logits if hasattr(output, "logits") else output


@pytest.mark.parametrize("name", MODELS)
def test_a_backbone_gives_its_features_and_trains_its_last_stage(name):
    model, images, expected = made(name)
    heads = [one for one in expected if one in find_head(model, images).names]
    assert list(find_head(model, images).names) == heads
    assert heads[-1] == expected[-1]

    # The features are what the head reads: its weight and bias on them are the logits, which are the model's own.
    with torch.no_grad():
        features, logits = features_and_logits(model, images)
        torch.testing.assert_close(logits, logits_of(model, images))
        layers = [model.get_submodule(one) for one in heads]
        width = features.shape[1] // len(heads)
        by_head = [
            part @ layer.weight.T + layer.bias for part, layer in zip(features.split(width, dim=1), layers, strict=True)
        ]
        torch.testing.assert_close(torch.stack(by_head).mean(0), logits, rtol=1e-4, atol=1e-5)
    assert features.shape == (3, width * len(heads))
    assert features.std() > 1e-3
    assert logits.std() > 1e-3

    selection = select_trainable(model, "last", images)
    trained = {one for one, parameter in model.named_parameters() if parameter.requires_grad}
    inside = {one for one, _ in model.named_parameters() if one.startswith(tuple(f"{part}." for part in expected))}
    assert trained == inside
    assert all(any(one.startswith(f"{part}.") for one in trained) for part in expected)
    assert selection.n_parameters == sum(model.get_parameter(one).numel() for one in trained)
    assert selection.n_total == sum(parameter.numel() for parameter in model.parameters())

    # One step in training mode moves no statistic and no frozen parameter, and gives the rest a gradient.
    before = {one: value.clone() for one, value in model.state_dict().items()}
    model.train()
    keep_still(model)
    features, logits = features_and_logits(model, images)
    (logits.square().sum() + features.square().sum()).backward()
    torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.1).step()
    changed = {one for one, value in model.state_dict().items() if not torch.equal(value, before[one])}
    assert changed <= trained
    assert {f"{part}.weight" for part in heads} <= changed
    assert any(one.startswith(f"{expected[0]}.") for one in changed)
    assert all(parameter.grad is None for one, parameter in model.named_parameters() if one not in trained)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "Swin"])
def test_the_tail_behind_a_frozen_prefix_is_the_model(name):
    model, images, _ = made(name)
    select_trainable(model, "last", images)
    prefix = FrozenPrefix(model, images)
    activations = prefix(images)
    assert not activations.requires_grad

    def gradients(module, inputs):
        model.zero_grad()
        features, logits = features_and_logits(module, inputs)
        (logits.square().sum() + features.square().mean()).backward()
        return features, logits, {one: part.grad for one, part in model.named_parameters() if part.requires_grad}

    of_model = gradients(model, images)
    with prefix.bypassed():
        of_tail = gradients(model, activations)
    torch.testing.assert_close(of_tail[0], of_model[0])
    torch.testing.assert_close(of_tail[1], of_model[1])
    for one, gradient in of_model[2].items():
        torch.testing.assert_close(of_tail[2][one], gradient, msg=one)
    # What trains is the model's very own; the frozen parameters are no part of a tail, which is a copy.
    torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.1).step()
    after = features_and_logits(model, images)[1]
    assert not torch.allclose(after, of_model[1])
    with prefix.bypassed():
        torch.testing.assert_close(features_and_logits(model, {"activations": activations})[1], after)
    torch.testing.assert_close(features_and_logits(model, images)[1], after)
    tail = prefix.tail()
    assert len(list(tail.parameters())) < len(list(model.parameters()))
    torch.testing.assert_close(features_and_logits(tail, activations)[1], after)
    with torch.no_grad():
        for parameter in tail.parameters():
            parameter.zero_()
    assert torch.equal(features_and_logits(model, images)[1], after)


def test_a_model_that_hangs_on_more_than_one_tensor_is_not_split():
    model, images, _ = made("Swin")
    select_trainable(model, "last", images)
    with pytest.raises(ValueError, match=r"SwinForImageClassification cannot be run once for all.*Train without"):
        FrozenPrefix(model, images)
    everything = TinyNet()
    select_trainable(everything, "all", torch.randn(2, 3, 8, 8))
    with pytest.raises(ValueError, match="nothing frozen stands before"):
        FrozenPrefix(everything, torch.randn(2, 3, 8, 8))

    class Detour(TinyNet):
        """What trains reads the stem twice, so one tensor is not enough."""

        def forward(self, pixel_values):
            first = self.stem(pixel_values)
            early = self.blocks[1](self.blocks[0](first))
            return self.score(torch.relu(self.widen(self.blocks[2](early) + 3 * first)).mean((2, 3)))

    detour, images = Detour().eval(), torch.randn(4, 3, 8, 8)
    select_trainable(detour, ["blocks.2", "widen", "score"], images)
    with pytest.raises(ValueError, match="what trains, alone, gives other logits"):
        FrozenPrefix(detour, images)


def test_cached_activations_are_the_prefix_of_each_sample(tiny_net, primary, harmful):
    select_trainable(tiny_net, "last", primary.x[:2])
    prefix = FrozenPrefix(tiny_net, primary.x[:2])
    cached = CachedActivations(prefix, primary, batch_size=40)
    assert len(cached) == len(primary)
    assert torch.equal(cached.labels, primary.y)
    tiny_net.eval()
    expected = tiny_net.blocks[1](tiny_net.blocks[0](tiny_net.stem(primary.x)))
    torch.testing.assert_close(cached.activations, expected.detach())
    assert torch.equal(cached[7]["activations"], cached.activations[7])
    assert "labels" not in CachedActivations(prefix, harmful)[0]


def test_all_and_patterns_choose_by_module_name():
    model, images, _ = made("timm ResNet")
    assert select_trainable(model, "all", images).n_parameters == sum(one.numel() for one in model.parameters())
    assert all(one.requires_grad for one in model.parameters())
    selection = select_trainable(model, ["layer4.1", "*.bn1", "fc"], images)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    by_hand = {
        name
        for name, _ in model.named_parameters()
        if name.startswith(("layer4.1.", "fc.")) or name.rpartition(".")[0].endswith(".bn1")
    }
    assert trained == by_hand
    assert "fc" in str(selection)
    assert f"{selection.n_parameters:,} of {selection.n_total:,}" in str(selection)
    with pytest.raises(ValueError, match=r"'layer5' fits no parameter.*layer4"):
        select_trainable(model, ["layer5", "fc"], images)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(ValueError, match=r"no sequence of blocks.*trainable=\['3'"):
        select_trainable(plain, "last", torch.randn(2, 3, 8, 8))


def test_last_takes_parts_that_their_parent_uses_without_calling_them():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.attention = nn.LayerNorm(12), nn.MultiheadAttention(12, 2, batch_first=True)

        def forward(self, x):
            # The weights are asked for so that evaluation mode takes no other path.
            return x + self.attention(*[self.norm(x)] * 3)[0]

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Linear(3, 12)
            self.blocks = nn.ModuleList([Attends(), Attends()])
            self.head = nn.Linear(12, 3)

        def forward(self, pixel_values):
            x = self.stem(pixel_values.flatten(2).mT)
            for block in self.blocks:
                x = block(x)
            return self.head(x.mean(1))

    model = Net()
    select_trainable(model, "last", torch.randn(2, 3, 4, 4))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if name.startswith(("blocks.1.", "head."))}


def test_dropout_of_frozen_parts_stays_still_and_that_of_trained_parts_does_not():
    torch.manual_seed(0)
    model = hf.ViTForImageClassification(hf.ViTConfig(**small(hidden_dropout_prob=0.5)))
    images = torch.randn(2, 3, 32, 32)
    select_trainable(model, "last", images)
    assert {"vit.embeddings", "vit.layers.0", "vit.layers.1"} <= modules_before_training(model, images)
    arriving, leaving = [], []
    block = model.vit.layers[-1]
    block.register_forward_pre_hook(lambda _, args: arriving.append(args[0].detach()))
    block.register_forward_hook(lambda _, __, output: leaving.append(output.detach()))

    def twice():
        arriving.clear(), leaving.clear()
        features_and_logits(model, images), features_and_logits(model, images)
        return torch.equal(*arriving), torch.equal(*leaving)

    find_head(model, images)
    model.train()
    assert twice() == (False, False)
    keep_still(model)
    assert twice() == (True, False)


@pytest.mark.parametrize(
    "build",
    [
        MODELS["MobileNetV2"][0],
        with_timm("test_convnext", drop_rate=0.5),
        # These two call F.dropout in their forward.
        with_timm("tf_efficientnet_lite0", drop_rate=0.5),
        with_timm("resnet18", drop_rate=0.5),
    ],
    ids=["module", "module inside the head", "function", "function behind a pool"],
)
def test_features_are_those_before_a_dropout(build):
    torch.manual_seed(0)
    model, images = spread(build()), torch.randn(4, 3, 64, 64)
    select_trainable(model, "last", images)
    model.eval()
    expected, without = features_and_logits(model, images)
    model.train()
    keep_still(model)
    features, logits = features_and_logits(model, images)
    torch.testing.assert_close(features, expected)
    assert expected.std() > 1e-3
    assert not torch.allclose(logits, without)


def test_a_dropout_that_works_in_place_does_not_reach_the_features():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = nn.Sequential(body, nn.Dropout(0.5, inplace=True), nn.Linear(16, 3)).train()
    images = torch.randn(4, 3, 8, 8)
    features, logits = features_and_logits(model, images)
    torch.testing.assert_close(features, body(images))
    (features.sum() + logits.sum()).backward()
    assert body[0].weight.grad.isfinite().all()


def test_a_module_that_runs_twice_is_no_place_to_read_features():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.squash, self.widen, self.head = nn.Tanh(), nn.Linear(12, 16), nn.Linear(16, 3)

        def forward(self, pixel_values):
            logits = self.head(self.squash(self.widen(pixel_values.flatten(1))))
            self.squash(logits)
            return logits

    torch.manual_seed(0)
    model, images = Shared(), torch.randn(4, 3, 2, 2)
    features, _ = features_and_logits(model, images)
    torch.testing.assert_close(features, torch.tanh(model.widen(images.flatten(1))))


def test_inputs_may_be_a_mapping_with_labels():
    for name in ("ViT", "timm ViT"):
        model, images, _ = made(name)
        expected = features_and_logits(model, images)
        found = features_and_logits(model, {"pixel_values": images, "labels": torch.zeros(3, dtype=torch.long)})
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_replaced_head_is_found_anew():
    model, images, _ = made("timm ResNet")
    assert find_head(model, images).n_classes == N_CLASSES
    model.reset_classifier(7)
    assert find_head(model, images).n_classes == 7
    assert features_and_logits(model, images)[1].shape == (3, 7)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: timm.create_model("test_vit", num_classes=0, img_size=32), "head cannot be found.*num_classes=0"),
        (lambda: hf.ViTModel(hf.ViTConfig(**small())), "ViTModel gives no logits.*AutoModelForImageClassification"),
        (lambda: nn.Conv2d(3, 4, 3), "Conv2d gives no logits"),
        (lambda: nn.Sequential(TinyNet(), nn.Softmax(dim=1)), "its head cannot be found.*put one nn.Linear last"),
        (lambda: nn.DataParallel(TinyNet()), "nn.DataParallel is not supported.*torchrun"),
    ],
    ids=["timm without a head", "transformers without a head", "no classifier", "softmax behind the head", "parallel"],
)
def test_a_model_that_cannot_be_says_what_to_do(build, message):
    with pytest.raises(ValueError, match=message):
        features_and_logits(build(), torch.randn(2, 3, 32, 32))


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
