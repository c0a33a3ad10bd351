"""A small member of every kind of image classifier that transformers and timm have, with random weights.

transformers: every class of ``MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING``, from a configuration of a few layers. timm:
every module of ``timm.models``, by the member of fewest parameters, at the smallest image that it takes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import timm
import torch
import transformers
from torch import nn
from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

N_CLASSES = 3

_VIT = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
_SQUARE = {"image_size": 32, "patch_size": 16}
_CONV = {"embedding_size": 8, "hidden_sizes": [8, 16, 24], "depths": [1, 1, 2]}
_SWIN = {"image_size": 32, "embed_dim": 8, "depths": [1, 2], "num_heads": [1, 2], "window_size": 4}
_TOWER = {"vision_config": _VIT | _SQUARE}
_PERCEIVER = {
    "num_latents": 8,
    "d_latents": 16,
    "num_blocks": 1,
    "num_self_attends_per_block": 3,
    "num_self_attention_heads": 2,
    "num_cross_attention_heads": 1,
    "image_size": 16,
}
_LEVIT = {
    "image_size": 64,
    "hidden_sizes": [16, 24, 32],
    "num_attention_heads": [1, 2, 2],
    "depths": [1, 1, 1],
    "key_dim": [8, 8, 8],
}

#: Class → options of its configuration. A class that is not named here has the defaults of its configuration.
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "BeitForImageClassification": _VIT | _SQUARE,
    "BitForImageClassification": {"embedding_size": 32, "hidden_sizes": [128, 128], "depths": [1, 2]},
    "CLIPForImageClassification": _TOWER,
    "ConvNextForImageClassification": _CONV | {"num_stages": 3},
    "ConvNextV2ForImageClassification": _CONV | {"num_stages": 3},
    "CvtForImageClassification": {"embed_dim": [8, 16, 24], "depth": [1, 2, 3], "num_heads": [1, 2, 3]},
    "Data2VecVisionForImageClassification": _VIT | _SQUARE,
    "DeiTForImageClassification": _VIT | _SQUARE,
    "DeiTForImageClassificationWithTeacher": _VIT | _SQUARE,
    "DinatForImageClassification": {"embed_dim": 8, "depths": [1, 2], "num_heads": [1, 2], "dilations": [[1], [1, 1]]},
    "Dinov2ForImageClassification": _VIT | {"image_size": 28, "patch_size": 14, "mlp_ratio": 2},
    "Dinov2WithRegistersForImageClassification": _VIT | {"image_size": 28, "patch_size": 14, "mlp_ratio": 2},
    "DonutSwinForImageClassification": _SWIN,
    "EfficientNetForImageClassification": {"width_coefficient": 0.2, "depth_coefficient": 0.1, "hidden_dim": 256},
    "FocalNetForImageClassification": {
        "image_size": 32,
        "embed_dim": 8,
        "hidden_sizes": [8, 16],
        "depths": [1, 2],
        "focal_levels": [2, 2],
        "focal_windows": [3, 3],
    },
    "HGNetV2ForImageClassification": {
        "stem_channels": [3, 8, 12],
        "stage_in_channels": [12, 16, 24, 32],
        "stage_mid_channels": [8, 8, 12, 16],
        "stage_out_channels": [16, 24, 32, 48],
        "stage_num_blocks": [1, 1, 1, 1],
        "stage_numb_of_layers": [2, 2, 2, 2],
        "hidden_sizes": [16, 24, 32, 48],
        "depths": [1, 1, 1, 1],
    },
    "HieraForImageClassification": {"image_size": [64, 64], "embed_dim": 8, "depths": [1, 1, 2, 1]},
    "IJepaForImageClassification": _VIT | _SQUARE,
    "ImageGPTForImageClassification": {"vocab_size": 17, "n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 2},
    "LevitForImageClassification": _LEVIT,
    "LevitForImageClassificationWithTeacher": _LEVIT,
    "MetaClip2ForImageClassification": _TOWER,
    "MobileNetV1ForImageClassification": {"depth_multiplier": 0.1},
    "MobileNetV2ForImageClassification": {"depth_multiplier": 0.2},
    "MobileViTForImageClassification": {
        "image_size": 64,
        "hidden_sizes": [16, 24, 32],
        "neck_hidden_sizes": [8, 8, 12, 16, 20, 24, 32],
        "intermediate_size": 16,
        "num_attention_heads": 2,
    },
    "MobileViTV2ForImageClassification": {"image_size": 64, "width_multiplier": 0.25},
    "PerceiverForImageClassificationLearned": _PERCEIVER,
    "PerceiverForImageClassificationFourier": _PERCEIVER | {"image_size": 32},
    "PerceiverForImageClassificationConvProcessing": _PERCEIVER | {"image_size": 32},
    "PoolFormerForImageClassification": {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 2]},
    "PPLCNetForImageClassification": {"scale": 0.25, "class_expand": 32},
    "PvtForImageClassification": {"image_size": 64, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 2]}
    | {"num_attention_heads": [1, 2, 2, 2]},
    "PvtV2ForImageClassification": {"image_size": 64, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 2]}
    | {"num_attention_heads": [1, 2, 2, 2]},
    "RegNetForImageClassification": _CONV | {"groups_width": 8},
    "ResNetForImageClassification": _CONV | {"layer_type": "basic"},
    "SegformerForImageClassification": {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 2]}
    | {"num_attention_heads": [1, 2, 2, 2]},
    "ShieldGemma2ForImageClassification": {
        "vision_config": _VIT | _SQUARE,
        "text_config": _VIT
        | {"vocab_size": 50, "head_dim": 16, "num_key_value_heads": 1, "pad_token_id": 0, "layer_types": None},
        "mm_tokens_per_image": 4,
        "image_token_index": 7,
        "yes_token_index": 1,
        "no_token_index": 2,
    },
    "SiglipForImageClassification": _TOWER,
    "Siglip2ForImageClassification": _TOWER,
    "SwiftFormerForImageClassification": {"embed_dims": [8, 16, 24, 32], "depths": [1, 1, 1, 2]},
    "SwinForImageClassification": _SWIN,
    "Swinv2ForImageClassification": _SWIN,
    "TextNetForImageClassification": {
        "conv_layer_kernel_sizes": [[[3, 3]], [[3, 3]], [[3, 3]], [[3, 3], [3, 1]]],
        "conv_layer_strides": [[1], [2], [2], [2, 1]],
        "stem_out_channels": 8,
        "hidden_sizes": [8, 8, 16, 24, 32],
    },
    "TimmWrapperForImageClassification": {"architecture": "test_resnet"},
    "ViTForImageClassification": _VIT | _SQUARE,
    "ViTMSNForImageClassification": _VIT | _SQUARE,
}


@dataclass(frozen=True)
class Backbone:
    """One member.

    Attributes:
        library: ``"transformers"`` or ``"timm"``.
        group: the class, or timm's module.
        name: the class, or timm's name of the member.
        options: of the configuration, or of ``timm.create_model``.
    """

    library: str
    group: str
    name: str
    options: dict[str, Any] = field(default_factory=dict, hash=False)

    def build(self) -> tuple[nn.Module, tuple[int, int, int]]:
        """The model with three classes and weights drawn by seed 0, and the shape (C, H, W) of its images."""
        torch.manual_seed(0)
        if self.library == "timm":
            model: Any = timm.create_model(self.name, num_classes=N_CLASSES, **self.options).eval()
            return model, model.pretrained_cfg["input_size"]
        kind = getattr(transformers, self.name)
        model = kind(kind.config_class(num_labels=N_CLASSES, **self.options)).eval()
        inner = getattr(model.config, "vision_config", model.config)
        size = getattr(inner, "image_size", 64)
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        return model, (getattr(inner, "num_channels", 3), height, width)


def transformers_backbones() -> list[Backbone]:
    """One for each class that this version of transformers has for image classification."""
    names = [
        one.__name__
        for kinds in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING.values()
        for one in (kinds if isinstance(kinds, tuple) else (kinds,))
    ]
    return [Backbone("transformers", name, name, CONFIGURATIONS.get(name, {})) for name in names]
