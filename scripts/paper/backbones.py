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

#: Image sizes where that of the configuration is a large one, in pixels; the others take theirs.
IMAGE_SIZES = {
    "CvtForImageClassification": 32,
    "EfficientNetForImageClassification": 64,
    "MobileNetV1ForImageClassification": 64,
    "MobileNetV2ForImageClassification": 64,
    "PoolFormerForImageClassification": 64,
    "TextNetForImageClassification": 64,
}

#: timm's module → its smallest member, the size of its images in pixels, and options that make it smaller yet.
MEMBERS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "beit": ("beit_base_patch16_224", 32, {"depth": 3, "embed_dim": 48, "num_heads": 2, "img_size": 32}),
    "byoanet": ("lambda_resnet26t", 64, {}),
    "byobnet": ("test_byobnet", 64, {}),
    "cait": ("cait_xxs24_224", 32, {"img_size": 32, "depth": 3, "embed_dim": 48, "num_heads": 2}),
    "coat": ("coat_tiny", 64, {"img_size": 64}),
    "convit": ("convit_tiny", 32, {"img_size": 32, "embed_dim": 12}),
    "convmixer": ("convmixer_768_32", 64, {}),
    "convnext": ("test_convnext", 64, {}),
    "cpubone": ("cpubone_nano", 64, {}),
    "crossvit": ("crossvit_tiny_240", 240, {}),
    "csatv2": ("csatv2", 64, {}),
    "cspnet": ("cs3darknet_focus_s", 64, {}),
    "cspnext": ("cspnext_tiny", 64, {}),
    "davit": ("davit_tiny", 64, {"embed_dims": [16, 32, 48, 64], "num_heads": [1, 2, 2, 2]}),
    "deepseek_vit": ("deepseek_vit_412m", 84, {"img_size": 84, "depth": 3, "embed_dim": 64, "num_heads": 2}),
    "deit": ("deit_tiny_patch16_224", 32, {"img_size": 32, "depth": 3, "embed_dim": 48, "num_heads": 2}),
    "densenet": ("densenet121", 64, {}),
    "dla": ("dla46x_c", 64, {}),
    "dpn": ("dpn48b", 64, {}),
    "edgenext": ("edgenext_xx_small", 64, {}),
    "efficientformer": ("efficientformer_l1", 224, {}),
    "efficientformer_v2": ("efficientformerv2_s0", 64, {"img_size": 64}),
    "efficientnet": ("test_efficientnet", 64, {}),
    "efficientvim": ("efficientvim_m1", 64, {}),
    "efficientvit_mit": ("efficientvit_b0", 64, {}),
    "efficientvit_msra": ("efficientvit_m0", 64, {}),
    "eva": ("vit_tiny_patch16_dinov3_qkvb", 64, {"img_size": 64}),
    "fasternet": ("fasternet_t0", 64, {}),
    "fastvit": ("fastvit_t8", 64, {}),
    "focalnet": ("focalnet_tiny_srf", 64, {}),
    "gcvit": ("gcvit_xxtiny", 64, {"img_size": 64}),
    "gemma4_vit": (
        "gemma4_vit_167m",
        48,
        {"img_size": 48, "depth": 3, "embed_dim": 64, "num_heads": 2, "head_dim": 32},
    ),
    "ghostnet": ("ghostnet_050", 64, {}),
    "hardcorenas": ("hardcorenas_b", 64, {}),
    "hgnet": ("hgnetv2_b0", 64, {}),
    "hiera": ("hiera_tiny_224", 64, {"img_size": 64, "embed_dim": 16}),
    "hieradet_sam2": ("sam2_hiera_tiny", 64, {"embed_dim": 16}),
    "hrnet": ("hrnet_w18_small", 64, {}),
    "iformer": ("iformer_t", 64, {}),
    "inception_next": ("inception_next_atto", 64, {}),
    "inception_resnet_v2": ("inception_resnet_v2", 96, {}),
    "inception_v3": ("inception_v3", 96, {}),
    "inception_v4": ("inception_v4", 96, {}),
    "lcnetv2": ("lcnetv2_small", 64, {}),
    "levit": ("levit_128s", 64, {"img_size": 64}),
    "lowformer": ("lowformer_b0", 64, {}),
    "mambaout": ("test_mambaout", 64, {}),
    "maxxvit": ("maxvit_pico_rw_256", 64, {"img_size": 64}),
    "metaformer": ("poolformerv2_s12", 64, {}),
    "mlp_mixer": ("gmlp_ti16_224", 32, {"img_size": 32}),
    "mobilenetv3": ("mobilenetv3_small_050", 64, {}),
    "mobilenetv5": ("mobilenetv5_base", 64, {"num_features": 256}),
    "mobilevit": ("mobilevit_xxs", 64, {}),
    "mvitv2": ("mvitv2_tiny", 64, {"img_size": 64}),
    "naflexvit": ("naflexvit_base_patch16_parfac_gap", 64, {"depth": 3, "embed_dim": 48, "num_heads": 2}),
    "nasnet": ("nasnetalarge", 96, {}),
    "nest": ("nest_tiny", 64, {"img_size": 64}),
    "nextvit": ("nextvit_small", 64, {"stem_chs": [16, 16, 16]}),
    "nfnet": ("test_nfnet", 64, {}),
    "pit": ("pit_ti_224", 64, {"img_size": 64}),
    "pnasnet": ("pnasnet5large", 96, {}),
    "pvt_v2": ("pvt_v2_b0", 64, {}),
    "qwen3_vit": ("qwen3_vit_88m", 64, {"img_size": 64, "depth": 3, "embed_dim": 64, "num_heads": 2}),
    "rdnet": ("rdnet_tiny", 64, {"growth_rates": [8, 8, 8, 8, 8, 8, 8]}),
    "regnet": ("regnetx_002", 64, {}),
    "repghost": ("repghostnet_050", 64, {}),
    "repvit": ("repvit_m1", 64, {}),
    "res2net": ("res2next50", 64, {}),
    "resnest": ("resnest14d", 64, {}),
    "resnet": ("resnet10t", 64, {}),
    "resnetv2": ("resnetv2_18", 64, {}),
    "rexnet": ("rexnet_100", 64, {}),
    "selecsls": ("selecsls42", 64, {}),
    "senet": ("legacy_seresnet18", 64, {}),
    "sequencer": (
        "sequencer2d_s",
        64,
        {"layers": [1, 1, 1, 2], "embed_dims": [24, 48, 48, 48], "hidden_sizes": [8, 12, 12, 12]},
    ),
    "shvit": ("shvit_s1", 64, {}),
    "sknet": ("skresnet18", 64, {}),
    "starnet": ("starnet_s050", 64, {}),
    "swiftformer": ("swiftformer_xs", 64, {}),
    "swin_transformer": (
        "swin_tiny_patch4_window7_224",
        64,
        {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": [1, 2], "num_heads": [1, 2]},
    ),
    "swin_transformer_v2": (
        "swinv2_tiny_window16_256",
        64,
        {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": [1, 2], "num_heads": [1, 2]},
    ),
    "swin_transformer_v2_cr": (
        "swinv2_cr_tiny_224",
        64,
        {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": [1, 2], "num_heads": [1, 2]},
    ),
    "tiny_vit": ("tiny_vit_5m_224", 64, {}),
    "tnt": (
        "tnt_s_legacy_patch16_224",
        32,
        {"img_size": 32, "depth": 3, "embed_dim": 48, "num_heads_outer": 2, "inner_dim": 12, "num_heads_inner": 2},
    ),
    "tresnet": ("tresnet_m", 64, {}),
    "twins": ("twins_svt_small", 64, {"embed_dims": [16, 24, 32, 48], "num_heads": [1, 2, 2, 2]}),
    "vgg": ("vgg11", 64, {"mlp_ratio": 0.05}),
    "visformer": ("visformer_tiny", 64, {"img_size": 64}),
    "vision_transformer": ("test_vit", 64, {}),
    "vision_transformer_hybrid": (
        "vit_tiny_r_s16_p8_224",
        64,
        {"img_size": 64, "depth": 3, "embed_dim": 48, "num_heads": 2},
    ),
    "vision_transformer_relpos": ("test_vit_relpos", 32, {"img_size": 32}),
    "vision_transformer_sam": (
        "samvit_base_patch16_224",
        64,
        {"img_size": 64, "depth": 3, "embed_dim": 48, "num_heads": 2},
    ),
    "vitamin": ("vitamin_small_224", 64, {"img_size": 64}),
    "volo": ("volo_d1_224", 64, {"img_size": 64}),
    "vovnet": ("ese_vovnet19b_slim_dw", 64, {}),
    "xception": ("legacy_xception", 64, {}),
    "xception_aligned": ("xception41p", 64, {}),
    "xcit": ("xcit_nano_12_p8_224", 32, {"img_size": 32, "depth": 3}),
}

#: Variance of random weights times their fan-in, where activations grow without bound under the 2 of all others.
GAIN = {"nextvit": 1.0}


@dataclass(frozen=True)
class Backbone:
    """One member.

    Attributes:
        library: ``"transformers"`` or ``"timm"``.
        group: the class, or timm's module.
        name: the class, or timm's name of the member.
        options: of the configuration, or of ``timm.create_model``.
        image_size: height and width of its images; that of its configuration if not given.
    """

    library: str
    group: str
    name: str
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    image_size: int | None = None

    def build(self) -> tuple[nn.Module, tuple[int, int, int]]:
        """The model with three classes and weights drawn by seed 0, and the shape (C, H, W) of its images.

        Raises:
            ImportError: it needs a package that is not installed.
        """
        torch.manual_seed(0)
        if self.library == "timm":
            model: Any = timm.create_model(self.name, num_classes=N_CLASSES, **self.options)
            channels, size, _ = model.pretrained_cfg["input_size"]
        else:
            kind = getattr(transformers, self.name)
            model = kind(kind.config_class(num_labels=N_CLASSES, **self.options))
            inner = getattr(model.config, "vision_config", model.config)
            channels, size = getattr(inner, "num_channels", 3), getattr(inner, "image_size", 64)
        size = self.image_size or (size[0] if isinstance(size, (list, tuple)) else size)
        return spread(model.eval(), GAIN.get(self.group, 2.0)), (channels, size, size)


def spread(model: nn.Module, gain: float = 2.0) -> nn.Module:
    """Other weights than those of a fresh model, which leave some with features of 1e-24 and empty heads."""
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            scale = (gain / parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.02
            parameter.copy_(noise * scale if parameter.ndim > 1 else parameter + noise * scale)
    return model


def transformers_backbones() -> list[Backbone]:
    """One for each class that this version of transformers has for image classification."""
    names = [
        one.__name__
        for kinds in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING.values()
        for one in (kinds if isinstance(kinds, tuple) else (kinds,))
    ]
    return [Backbone("transformers", name, name, CONFIGURATIONS.get(name, {}), IMAGE_SIZES.get(name)) for name in names]


def timm_backbones() -> list[Backbone]:
    """One for each module that this version of timm has; of one that is not named here, the first member."""
    found = []
    for module in timm.list_modules():
        name, size, options = MEMBERS.get(module) or (timm.list_models(module=module)[0], None, {})
        found.append(Backbone("timm", module, name, options, size))
    return found
