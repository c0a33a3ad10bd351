"""Every kind of image classifier that transformers and timm have, each through one whole run.

The table of the same is model_cards/backbones/README.md; a quarter of it runs each time, the rest under ``slow``.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

from hf_immunize import features_and_logits
from hf_immunize.models.head import find_head
from hf_immunize.models.trainable import select_trainable

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "scripts"))

from paper.backbones import MEMBERS, timm_backbones, transformers_backbones  # noqa: E402
from sweep_backbones import Refusal, check, page  # noqa: E402

TABLE = ROOT / "model_cards" / "backbones"
#: What takes more than images, and what needs a package that is not there.
REFUSED = {
    "ImageGPTForImageClassification": "takes input_ids",
    "ShieldGemma2ForImageClassification": "takes input_ids",
    "Siglip2ForImageClassification": "takes spatial_shapes",
}
#: Of each kind of head and of body one that is quick.
KINDS = {
    "BeitForImageClassification",
    "CLIPForImageClassification",
    "DeiTForImageClassificationWithTeacher",
    "MobileNetV2ForImageClassification",
    "PerceiverForImageClassificationLearned",
    "PPLCNetForImageClassification",
    "TimmWrapperForImageClassification",
    "byobnet",
    "cait",
    "convnext",
    "deepseek_vit",
    "deit",
    "dla",
    "naflexvit",
    "nfnet",
    "regnet",
    "sequencer",
    "swin_transformer",
    "tnt",
    "vision_transformer_relpos",
}
BACKBONES = transformers_backbones() + timm_backbones()


def quick() -> set[str]:
    """A quarter of all: one of each kind, what is refused, and those that the table says are quickest."""
    rows = json.loads((TABLE / "backbones.json").read_text(encoding="utf-8"))["rows"]
    seconds = {key.partition("/")[2]: row["seconds"] for key, row in rows.items() if row["result"] == "works"}
    named = KINDS | set(REFUSED)
    others = sorted(set(seconds) - named, key=lambda name: (seconds[name], name))
    return named | set(others[: math.ceil(len(BACKBONES) / 4) - len(named)])


QUICK = quick()


@pytest.mark.parametrize(
    "backbone",
    [
        pytest.param(one, id=one.group, marks=() if one.group in QUICK else pytest.mark.slow)
        for one in BACKBONES
        if one.group not in REFUSED
    ],
)
def test_a_backbone_goes_through_a_whole_run(backbone, tmp_path):
    try:
        backbone.build()
    except ImportError as error:
        pytest.skip(f"{backbone.group} needs a package: {' '.join(str(error).split())[:80]}")
    check(backbone, tmp_path)


@pytest.mark.parametrize("name", REFUSED)
def test_what_takes_more_than_images_is_refused_by_name_with_the_reason(name, tmp_path):
    backbone = next(one for one in BACKBONES if one.group == name)
    with pytest.raises(Refusal, match=f"{name} {REFUSED[name]}"):
        check(backbone, tmp_path)


def test_every_class_and_every_module_is_there():
    classes = {
        one.__name__
        for kinds in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING.values()
        for one in (kinds if isinstance(kinds, tuple) else (kinds,))
    }
    assert {one.group for one in BACKBONES} == classes | set(timm.list_modules())
    assert len(QUICK) >= len(BACKBONES) / 4
    assert all(name in timm.list_models(module=module) for module, (name, _, _) in MEMBERS.items())


def test_the_table_is_that_of_the_rows():
    values = json.loads((TABLE / "backbones.json").read_text(encoding="utf-8"))
    assert (TABLE / "README.md").read_text(encoding="utf-8") == page(values["rows"], values["versions"])
    results = {key.partition("/")[2]: row["result"] for key, row in values["rows"].items()}
    for name, result in results.items():
        if name in REFUSED:
            assert result.startswith(f"refused: {name} {REFUSED[name]}"), name
        else:
            assert result == "works" or result.startswith("not built"), (name, result)


@pytest.mark.parametrize(
    ("name", "size", "heads", "last"),
    [
        ("resnet18", 32, ["fc"], "layer4"),
        ("vgg11_bn", 32, ["classifier.6"], "classifier.3"),
        ("mobilenet_v3_small", 32, ["classifier.3"], "features.12"),
        ("googlenet", 64, ["fc"], "inception5b"),
        ("densenet121", 32, ["classifier"], "features.denseblock4"),
        ("shufflenet_v2_x0_5", 32, ["fc"], "stage4"),
    ],
)
def test_plain_modules_of_torchvision_have_features_and_a_last_stage(name, size, heads, last):
    torch.manual_seed(0)
    options = {"init_weights": False} if name == "googlenet" else {}
    model = torchvision.models.get_model(name, num_classes=3, weights=None, **options)
    images = torch.randn(2, 3, size, size)
    model.eval()
    features, logits = features_and_logits(model, images)
    assert list(find_head(model, images).names) == heads
    torch.testing.assert_close(model.get_submodule(heads[0])(features), logits)
    selection = select_trainable(model, "last", images)
    assert selection.modules[0] == last
    assert selection.modules[-1] in (heads[0], heads[0].partition(".")[0])
    assert 0 < selection.n_parameters < selection.n_total
