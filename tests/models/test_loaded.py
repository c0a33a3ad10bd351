"""A loaded model prepares images, or says what is missing for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from hf_immunize import load_model


def test_a_folder_without_an_image_processor_warns_and_says_so_when_it_is_needed(vit_folder):
    (vit_folder / "preprocessor_config.json").unlink()
    with pytest.warns(UserWarning, match="holds no image processor"):
        loaded = load_model(vit_folder)
    with pytest.raises(ValueError, match="holds no image processor"):
        loaded.preprocess(Image.new("RGB", (8, 8)))


def test_grey_becomes_colour_before_any_processor(vit_folder, timm_folder):
    grey = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 3)
    for folder in (vit_folder, timm_folder):
        loaded = load_model(folder)
        torch.testing.assert_close(loaded.preprocess(grey), loaded.preprocess(grey.convert("RGB")), rtol=0, atol=0)
