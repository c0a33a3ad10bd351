"""`hf-immunize attack --update_release`: the report goes into the record and the card of a release."""

from __future__ import annotations

import shutil

import pytest
from commands import error_of

from hf_immunize.cli.main import main
from hf_immunize.release.certify import certified


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
