"""Backbones of both libraries: where features are read, and the head behind them."""

from __future__ import annotations

import pytest
import timm
import torch
import transformers as hf
from backbones import MODELS, N_CLASSES, logits_of, made, small, spread, with_timm
from tiny import TinyNet
from torch import nn

from hf_immunize import features_and_logits
from hf_immunize.models.head import find_head
from hf_immunize.models.trainable import keep_still, select_trainable


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


@pytest.mark.parametrize("name", ["DeiT, distilled", "timm DeiT, distilled", "ViT"])
def test_a_head_of_zeros_is_found_as_any_other(name):
    """Fine-tuning begins with zeros often; then every head gives the logits, and each of them alone would do."""
    model, images, _ = made(name)
    found = find_head(model, images)
    model, images, _ = made(name)
    for part in found.names:
        torch.nn.init.zeros_(model.get_submodule(part).weight)
    assert find_head(model, images) == found


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


@pytest.mark.parametrize("drop", [nn.Dropout(0.5), nn.Dropout2d(0.5), nn.AlphaDropout(0.5)], ids=repr)
def test_features_are_those_before_a_dropout_that_stands_before_a_flatten(drop):
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 16, 3), nn.AdaptiveAvgPool2d(1))
    model = nn.Sequential(body, drop, nn.Flatten(), nn.Linear(16, 3)).train()
    images = torch.randn(4, 3, 8, 8)
    assert find_head(model, images).n_features == 16
    features, logits = features_and_logits(model, images)
    torch.testing.assert_close(features, body(images).flatten(1))
    model.eval()
    torch.testing.assert_close(features_and_logits(model, images)[0], features)
    assert not torch.allclose(features_and_logits(model, images)[1], logits)


@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm", "orthogonal"])
def test_a_head_whose_weight_is_parametrised_is_a_head(norm):
    model, images = TinyNet(), torch.randn(2, 3, 8, 8)
    plain = find_head(model, images)
    chosen = select_trainable(TinyNet(), "last", images).modules
    getattr(nn.utils.parametrizations, norm)(model.score)
    assert find_head(model, images) == plain
    assert select_trainable(model, "last", images).modules == chosen


class Kinds(nn.Module):
    """One body with heads of several kinds, each of which gives the logits."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.drop = kind, nn.Dropout(0.5)
        self.body = nn.Conv2d(3, 8, 3, stride=2)
        self.head, self.other = nn.Linear(8, 4), nn.Linear(8, 4)
        self.conv, self.mlp = nn.Conv2d(8, 4, 1), nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))

    def forward(self, pixel_values):
        maps = torch.relu(self.body(pixel_values))
        pooled = maps.mean((2, 3))
        tokens = maps.flatten(2).mT
        if self.kind == "a convolution on every position":
            return self.conv(maps).mean((2, 3))
        if self.kind == "a linear layer on every position":
            return self.head(tokens).mean(1)
        if self.kind == "several layers":
            return self.mlp(pooled)
        if self.kind == "a temperature":
            return self.head(pooled) / 7
        if self.kind == "two heads of two inputs":
            return (self.head(self.drop(pooled)) + self.other(self.drop(tokens[:, 0]))) / 2
        if self.kind == "an auxiliary maximum":
            return self.head(self.drop(pooled)) + 0.5 * self.other(self.drop(tokens)).max(1)[0]
        return self.head(pooled), self.other(tokens)  # auxiliary outputs

    def expected(self, images):
        maps = torch.relu(self.body(images))
        pooled, first = maps.mean((2, 3)), maps.flatten(2).mT[:, 0]
        if self.kind == "several layers":
            return self.mlp[:2](pooled)
        return torch.cat([pooled, first], 1) if self.kind == "two heads of two inputs" else pooled


@pytest.mark.parametrize(
    ("kind", "heads"),
    [
        ("a convolution on every position", ["conv"]),
        ("a linear layer on every position", ["head"]),
        ("several layers", ["mlp.2"]),
        ("a temperature", ["head"]),
        ("two heads of two inputs", ["head", "other"]),
        ("an auxiliary maximum", ["head"]),
        ("auxiliary outputs", ["head"]),
    ],
)
def test_features_are_what_an_attacker_would_probe(kind, heads):
    torch.manual_seed(0)
    model, images = Kinds(kind).eval(), torch.randn(5, 3, 9, 9)
    features, logits = features_and_logits(model, images)
    assert list(find_head(model, images).names) == heads
    torch.testing.assert_close(features, model.expected(images))
    # More weight in the heads is more in the logits, and of these features.
    more = [torch.randn(4, features.shape[1] // len(heads)) for _ in heads]
    share = {"a temperature": 1 / 7, "two heads of two inputs": 1 / 2}.get(kind, 1)
    with torch.no_grad():
        for name, one in zip(heads, more, strict=True):
            weight = model.get_submodule(name).weight
            weight += one.view_as(weight)
    _, moved = features_and_logits(model, images)
    torch.testing.assert_close(moved - logits, share * features @ torch.cat(more, 1).T, rtol=1e-4, atol=1e-4)
    # The same in training, whatever is dropped on the way to the head.
    model.train()
    torch.testing.assert_close(features_and_logits(model, images)[0], model.expected(images))


def test_a_module_that_runs_twice_is_read_where_it_gives_the_features():
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
