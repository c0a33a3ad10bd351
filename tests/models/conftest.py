"""Folders of checkpoints."""

import pytest
import timm
from samples import tiny_timm, tiny_vit


@pytest.fixture
def vit_folder(tmp_path):
    model, processor = tiny_vit()
    model.save_pretrained(tmp_path / "vit")
    processor.save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


@pytest.fixture
def timm_folder(tmp_path):
    timm.models.save_for_hf(
        tiny_timm(), tmp_path / "resnet", {"label_names": ["crow", "owl", "wren"]}, safe_serialization=True
    )
    return tmp_path / "resnet"
