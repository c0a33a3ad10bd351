"""`hf-immunize attack --update_release`: the report goes into the record and the card of a release."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from commands import error_of

from hf_immunize import load_model
from hf_immunize.cli.main import main
from hf_immunize.release.certify import certified
from hf_immunize.release.update import check_beside


@pytest.fixture
def release(released, tmp_path):
    return shutil.copytree(released, tmp_path / "release")


def command(world, release, *more):
    given = ["attack", str(release), "--base", str(release / "initial"), "--harmful", str(world / "harmful")]
    return [*given, "--attackers", "ridge", "knn", "--samples", "all", "--seeds", "0", "--update_release", *more]


def test_a_report_reaches_record_and_card(world, release, capsys):
    assert "two-layer head" in certified(release).results["attacks"]["attackers"]
    assert main(command(world, release, "--seed", "3")) == 0
    assert str(release) in capsys.readouterr().out
    found = certified(release).results["attacks"]
    assert set(found["attackers"]) == {"ridge regression", "k nearest neighbours"}
    assert "the best of 2 ways gets" in (release / "README.md").read_text()


def test_rows_that_are_not_the_releases_are_refused_before_any_attack(world, release, capsys):
    before = (release / "immunization.json").read_bytes()
    # Another seed holds out another fifth.
    assert "not those that the release was measured on" in error_of(capsys, command(world, release, "--seed", "4"))
    assert (release / "immunization.json").read_bytes() == before
    given = command(world, world / "vit", "--seed", "3")
    assert "is no whole release" in error_of(capsys, given)


def test_another_model_beside_the_release_is_refused_before_any_attack(world, release, capsys):
    before = (release / "immunization.json").read_bytes()
    given = command(world, release)
    other = load_model(release / "initial")
    with torch.no_grad():
        next(other.model.parameters()).add_(1e-3)
    other.model.save_pretrained(release.parent / "other")
    other.image_processor.save_pretrained(release.parent / "other")
    given[given.index("--base") + 1] = str(release.parent / "other")
    said = error_of(capsys, [*given, "--seed", "3"])
    assert "--base is another model than the one that the release was measured beside (the weights under" in said
    assert (release / "immunization.json").read_bytes() == before


def test_theta_zero_that_the_release_does_not_carry_goes_by_its_name_and_commit(tmp_path, released):
    record = certified(released)
    given = load_model(released / "initial")
    with pytest.raises(ValueError, match="carries none under initial/"):
        check_beside(tmp_path, record, {"initial": given})
    pinned = replace(record, base_model="me/net", base_model_revision="a" * 40, base_model_kind="hub")
    check_beside(tmp_path, pinned, {"initial": replace(given, name="me/net", revision="a" * 40)})
    with pytest.raises(ValueError, match="me/net at aaaa"):
        check_beside(tmp_path, pinned, {"initial": replace(given, name="me/net", revision="b" * 40)})
    shutil.copytree(released / "initial", tmp_path / "control")
    same = {"initial": replace(given, name="me/net", revision="a" * 40), "control": load_model(released / "initial")}
    check_beside(tmp_path, pinned, same)
    with torch.no_grad():
        next(same["control"].model.parameters()).add_(1e-3)
    with pytest.raises(ValueError, match="--control is another model"):
        check_beside(tmp_path, pinned, same)
    # A ceiling that the release does not carry is measured beside it.
    check_beside(tmp_path, record, {"public": given})
