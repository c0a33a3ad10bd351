"""Two models are compared on the same inputs, and on what the released one reads."""

from __future__ import annotations

from argparse import Namespace

import pytest
from commands import error_of
from samples import tiny_vit

from hf_immunize import load_model
from hf_immunize.cli.pair import check_two_models, prepare_alike, reader_of


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


def test_a_model_beside_itself_is_no_comparison(tmp_path, monkeypatch, capsys):
    check_two_models(Namespace(model="me/net", base="me/net@main"))
    with pytest.raises(ValueError, match=r"--base names the model itself \(me/net\)"):
        check_two_models(Namespace(model="me/net", base="me/net"))
    (tmp_path / "release").mkdir()
    monkeypatch.chdir(tmp_path)
    for verb, more in (("evaluate", ["--primary", "p"]), ("attack", [])):
        given = [verb, "release", "--base", str(tmp_path / "release"), "--harmful", "h", *more]
        assert "--base names the model itself" in error_of(capsys, given)
