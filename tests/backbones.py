"""Backbones of both libraries, small enough for a test."""

from __future__ import annotations

import timm
import torch
import transformers as hf

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
