"""`hf-immunize verify`: what holds, what differs, what cannot be checked, and the exit status."""

from __future__ import annotations

import json
import shutil

import pytest
from commands import error_of
from safetensors.torch import load_file, save_file

from hf_immunize.cli.main import main
from hf_immunize.release.card import create_model_card
from hf_immunize.release.record import ImmunizationRecord


@pytest.fixture
def release(released, tmp_path):
    return shutil.copytree(released, tmp_path / "release")


@pytest.fixture
def given(world, release):
    return ["verify", str(release), "--primary", str(world / "primary"), "--harmful", str(world / "harmful")]


def claims(capsys, given, status):
    capsys.readouterr()
    assert main([*given, "--json"]) == status
    found = json.loads(capsys.readouterr().out)
    assert found["holds"] is (status == 0)
    return {one["name"]: one for one in found["claims"]}


def of_status(found, status):
    return {name for name, one in found.items() if one["status"] == status and one["asked"]}


def rewritten(release, **changes):
    """The record with other figures, and the card that goes with it: a consistent lie."""
    record = ImmunizationRecord.load(release)
    record.results |= changes
    record.save(release)
    create_model_card(record, release.name).save(release / "README.md")


def test_an_honest_release_holds(given, release, tmp_path, capsys):
    found = claims(capsys, [*given, "--output_dir", str(tmp_path / "report")], 0)
    assert of_status(found, "holds") >= {
        "primary accuracy, immunized",
        "primary accuracy, initial",
        "the primary rows",
        "the harmful rows",
        "the card says what the record says",
    }
    assert any(name.startswith("RIR_θ0, immunized") for name in of_status(found, "holds"))
    assert json.loads((tmp_path / "report" / "verification.json").read_text())["holds"]
    assert (tmp_path / "report" / "verification.png").stat().st_size > 10_000
    assert "verification.json exists" in error_of(capsys, [*given, "--output_dir", str(tmp_path / "report")])
    (tmp_path / "report" / "verification.json").rename(tmp_path / "verification.json")
    assert "verification.png exists" in error_of(capsys, [*given, "--output_dir", str(tmp_path / "report")])
    (tmp_path / "verification.json").rename(tmp_path / "report" / "verification.json")
    assert main(given) == 0
    text = capsys.readouterr().out
    assert "Everything that was asked for holds." in text
    assert "The release does not carry the control" in text


def test_the_attacks_are_repeated_on_request(given, capsys):
    found = claims(capsys, [*given, "--attackers", "ridge", "knn"], 0)
    assert of_status(found, "holds") >= {"ridge regression, immunized", "ridge regression, initial"}
    assert "L-BFGS, immunized" not in of_status(found, "cannot be checked")


def test_figures_that_were_changed_differ(given, release, capsys):
    record = ImmunizationRecord.load(release)
    accuracy = record.results["primary_accuracy"]
    rewritten(release, primary_accuracy=accuracy | {"immunized": accuracy["immunized"] - 0.25})
    found = claims(capsys, given, 1)
    assert of_status(found, "differs") == {"primary accuracy, immunized"}
    assert main(given) == 1
    assert "Not everything holds." in capsys.readouterr().out


def test_a_card_that_was_edited_differs_from_its_record(given, release, capsys):
    card = (release / "README.md").read_text()
    accuracy = 100 * ImmunizationRecord.load(release).results["primary_accuracy"]["immunized"]
    assert f"{accuracy:.1f} %" in card
    (release / "README.md").write_text(card.replace(f"{accuracy:.1f} %", "99.9 %"))
    found = claims(capsys, given, 1)
    assert of_status(found, "differs") == {"the card says what the record says"}


def test_other_weights_differ(given, release, capsys):
    weights = load_file(release / "model.safetensors")
    weights["classifier.weight"] = -weights["classifier.weight"]
    save_file(weights, release / "model.safetensors", metadata={"format": "pt"})
    assert "primary accuracy, immunized" in of_status(claims(capsys, given, 1), "differs")


def test_other_rows_are_named(world, given, capsys):
    given = [*given[:-1], str(world / "primary")]
    found = claims(capsys, given, 1)
    assert "the harmful rows" in of_status(found, "differs")
    assert "other rows" in found["the harmful rows"]["why"]


def test_data_that_nobody_can_fetch_leave_claims_unchecked(release, capsys):
    found = claims(capsys, ["verify", str(release)], 1)
    assert of_status(found, "differs") == set()
    why = found["primary accuracy, immunized"]["why"]
    assert "names 'primary' (local) and no commit of the Hub" in why


def test_without_theta_zero_the_accuracy_alone_is_checked(world, given, release, capsys):
    shutil.rmtree(release / "initial")
    found = claims(capsys, given, 1)
    assert found["primary accuracy, immunized"]["status"] == "holds"
    ratios = {name: one for name, one in found.items() if "immunized, " in name and "RIR" in name}
    assert ratios
    for one in ratios.values():
        assert (one["status"], one["asked"]) == ("cannot be checked", True)
        assert "the release does not carry it" in one["why"]
    assert of_status(claims(capsys, [*given, "--base", str(world / "vit")], 0), "cannot be checked") == set()


@pytest.mark.parametrize(("name", "why"), [(None, "is a folder"), ("me/models/sub@v1", "sub is a subfolder")])
def test_a_pull_request_that_cannot_be_is_refused_before_anything_is_measured(
    given, release, monkeypatch, capsys, name, why
):
    monkeypatch.setattr("hf_immunize.cli.verify.verify", None)
    assert why in error_of(capsys, ["verify", name or str(release), *given[2:], "--create_pr"])


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_folder_that_cannot_be_is_refused_before_anything_is_measured(given, tmp_path, capsys, monkeypatch, name):
    monkeypatch.setattr("hf_immunize.cli.verify.verify", None)
    (tmp_path / "file").write_text("mine")
    assert "file is a file. Name a folder" in error_of(capsys, [*given, "--output_dir", str(tmp_path / name)])


def test_what_is_no_release_is_said(world, tmp_path, capsys):
    assert "holds no immunization.json" in error_of(capsys, ["verify", str(world / "vit")])
    assert "There is no folder" in error_of(capsys, ["verify", str(tmp_path / "nowhere")])
    assert "verify needs model" in error_of(capsys, ["verify"])
