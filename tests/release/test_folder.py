"""A release is written whole or not at all, and nothing of the user's is overwritten unasked."""

import hashlib
import json
import os
from dataclasses import replace

import pytest
import torch
from huggingface_hub import ModelCard
from releases import names, save
from samples import sample_record, tiny_timm, tiny_vit

from hf_immunize.data.preprocessing import TimmImageProcessor
from hf_immunize.models.loading import load_model
from hf_immunize.release.folder import missing_parts, save_immunized
from hf_immunize.release.record import ImmunizationRecord


def test_the_folder_is_whole_and_nothing_lies_beside_it(tmp_path):
    folder = save(tmp_path / "deep" / "out", figures=True)
    assert missing_parts(folder) == []
    assert names(folder) == [
        ".eval_results/hf_immunize.yaml",
        "README.md",
        "config.json",
        "figures/attacks.png",
        "figures/spectra.png",
        "immunization.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    assert [path.name for path in folder.parent.iterdir()] == ["out"]
    record = ImmunizationRecord.load(folder)
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert record.files["model.safetensors"] == weights
    assert set(record.files) == set(names(folder)) - {"README.md", "immunization.json"}
    assert replace(record, files={}) == sample_record()
    umask = os.umask(0)
    os.umask(umask)
    assert folder.stat().st_mode & 0o777 == 0o777 & ~umask
    assert {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()} == {0o666 & ~umask}


def test_a_timm_folder_keeps_preprocessing_in_config_json(tmp_path):
    model = tiny_timm()
    folder = save_immunized(
        tmp_path / "out", model, sample_record(library="timm"), TimmImageProcessor.from_model(model)
    )
    assert missing_parts(folder) == []
    assert "preprocessor_config.json" not in names(folder)
    config = json.loads((folder / "config.json").read_text())
    assert "num_classes" not in config["model_args"]
    assert config["num_classes"] == 3


def test_channels_last_and_compiled_models_are_saved(tmp_path):
    model = tiny_timm()
    wanted = {key: value.clone() for key, value in model.state_dict().items()}
    model = model.to(memory_format=torch.channels_last)
    folder = save_immunized(tmp_path / "out", torch.compile(model), sample_record(library="timm"), figures=False)
    saved = load_model(folder).model.state_dict()
    assert all(torch.equal(saved[key], wanted[key]) for key in wanted)


def test_a_bound_that_is_infinite_is_saved_and_one_that_is_nan_is_not(tmp_path):
    model = tiny_timm()
    bound = model.layer1[0].bn1.running_var
    bound.fill_(torch.inf)
    folder = save_immunized(tmp_path / "out", model, sample_record(library="timm"), figures=False)
    assert (folder / "model.safetensors").is_file()
    bound.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"NaN or infinite.*bn1\.running_var"):
        save_immunized(tmp_path / "other", model, sample_record(library="timm"), figures=False)


def test_weights_that_two_modules_share_are_saved_under_both_names(tmp_path):
    model = tiny_timm()
    first, second = model.layer1[0].bn1, model.layer1[0].bn2
    second.weight = first.weight = torch.nn.Parameter(torch.rand_like(first.weight))
    folder = save_immunized(tmp_path / "out", model, sample_record(library="timm"), figures=False)
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(load_model(folder).model(images), model(images))


def test_a_failure_leaves_nothing_behind(tmp_path):
    record = sample_record()
    record.results["rir"]["immunized"]["rir"] = {"mean": "a word", "bound": "exact"}
    with pytest.raises(ValueError, match="'a word' is not a number"):
        save(tmp_path / "out", record)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_overwrite_leaves_the_old_release_whole(tmp_path):
    folder = save(tmp_path / "out")
    before = {name: (folder / name).read_bytes() for name in names(folder)}
    record = sample_record()
    record.results["rir"]["immunized"]["rir"] = {"mean": "a word", "bound": "exact"}
    with pytest.raises(ValueError, match="'a word' is not a number"):
        save(folder, record, overwrite=True)
    assert {name: (folder / name).read_bytes() for name in names(folder)} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_weights_that_are_not_finite_are_not_released(tmp_path):
    model, processor = tiny_vit()
    with torch.no_grad():
        model.classifier.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"NaN or infinite.*classifier\.weight"):
        save_immunized(tmp_path / "out", model, sample_record(), processor)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_released_says_why(tmp_path):
    with pytest.raises(ValueError, match="released with its image processor"):
        save_immunized(tmp_path / "out", tiny_vit()[0], sample_record())
    with pytest.raises(TypeError, match="Cannot save Linear"):
        save_immunized(tmp_path / "out", torch.nn.Linear(2, 2), sample_record())


def test_what_would_not_load_again_is_not_released(tmp_path):
    model, processor = tiny_vit()
    model.classifier = torch.nn.Sequential(torch.nn.Dropout(0.1), model.classifier)
    with pytest.raises(ValueError, match="it would not load again"):
        save_immunized(tmp_path / "out", model, sample_record(), processor)
    with pytest.raises(ValueError, match="would prepare images otherwise"):
        save_immunized(tmp_path / "out", tiny_timm(), sample_record(), processor)
    assert list(tmp_path.iterdir()) == []


def test_figures_can_be_left_out(tmp_path):
    folder = save(tmp_path / "out", figures=False)
    assert not (folder / "figures").exists()
    assert "figures/" not in (folder / "README.md").read_text(encoding="utf-8")


def test_overwriting_keeps_what_an_author_wrote_and_nothing_that_was_generated(tmp_path):
    model = tiny_timm()
    folder = save(tmp_path / "out", figures=False)
    for license in ("mit", "gpl-3.0"):
        record = sample_record(license=license, library="timm")
        save_immunized(folder, model, record, TimmImageProcessor.from_model(model), figures=False, overwrite=True)
        data = ModelCard.load(folder / "README.md").data
        assert data.license == license
        assert "transformers" not in data.tags
    card = folder / "README.md"
    card.write_text(card.read_text().replace("license: gpl-3.0", "license: bsd-3-clause\nlanguage: en"))
    save(folder, figures=False, overwrite=True)
    data = ModelCard.load(card).data
    assert (data.license, data.language) == ("bsd-3-clause", "en")


def test_a_card_beside_no_record_is_all_its_authors(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: mit\ntags:\n- transformers\n---\nMine.\n")
    save(folder, figures=False, overwrite=True)
    assert ModelCard.load(folder / "README.md").data.license == "mit"
