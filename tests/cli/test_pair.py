"""Two models are compared on the same inputs, and on what the released one reads."""

from __future__ import annotations

import json
from argparse import Namespace

import pytest
from samples import tiny_vit

from hf_immunize import load_model
from hf_immunize.cli.main import main
from hf_immunize.cli.pair import prepare_alike, reader_of, say_if_beside_itself


@pytest.fixture
def pair(tmp_path):
    """A model and the one that it started from, which prepares pictures with another mean."""
    for name, mean in (("model", 0.5), ("base", 0.1)):
        network, processor = tiny_vit(("crow", "owl"))
        processor.image_mean = [mean] * 3
        for part in (network, processor):
            part.save_pretrained(tmp_path / name)
    return load_model(tmp_path / "model"), load_model(tmp_path / "base")


def test_the_models_own_image_processor_prepares_for_both(pair, capsys):
    model, base = pair
    assert not prepare_alike(model, base)
    assert reader_of(model, base) is model
    assert "both models are given what that of the model makes" in capsys.readouterr().err
    base.image_processor.image_mean = [0.5] * 3
    assert prepare_alike(model, base)
    assert reader_of(model, base) is model
    assert not capsys.readouterr().err


def test_a_model_without_a_processor_is_read_by_that_of_its_base(pair):
    model, base = pair
    model.image_processor = None
    assert reader_of(model, base) is base
    base.image_processor = None
    with pytest.raises(ValueError, match="base holds no image processor"):
        reader_of(model, base)


def test_a_model_beside_itself_is_said(tmp_path, monkeypatch, capsys):
    say_if_beside_itself(Namespace(model="me/net", base="me/net@main"))
    assert not capsys.readouterr().err
    say_if_beside_itself(Namespace(model="me/net", base="me/net"))
    assert "--base names the model itself (me/net): it is compared with itself" in capsys.readouterr().err
    (tmp_path / "release").mkdir()
    monkeypatch.chdir(tmp_path)
    for verb, more in (("evaluate", ["--primary", "p"]), ("attack", [])):
        given = [verb, "release", "--base", str(tmp_path / "release"), "--harmful", "h", *more]
        assert main(given) == 1
        assert "--base names the model itself" in capsys.readouterr().err


def test_a_model_beside_itself_has_a_ratio_of_one(world, capsys):
    given = ["evaluate", str(world / "vit"), "--base", str(world / "vit"), "--primary", str(world / "primary")]
    assert main([*given, "--harmful", str(world / "harmful"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert "RIR is 1" in err
    # In float32 two loads of the same weights may be rounded otherwise.
    assert json.loads(out)["rir"]["rir"]["mean"] == pytest.approx(1.0, rel=1e-3)
