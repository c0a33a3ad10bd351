"""`hf-immunize evaluate`: RIR, accuracy, and what was measured on."""

from __future__ import annotations

import json

from commands import error_of

from hf_immunize.cli.main import main
from hf_immunize.release.record import ImmunizationRecord


def test_evaluation_prints_rir_accuracy_and_what_was_measured_on(world, released, capsys):
    given = ["evaluate", str(released), "--base", str(world / "vit"), "--primary", str(world / "primary")]
    given += ["--harmful", str(world / "harmful"), "--group_size", "8", "--groups", "3"]
    capsys.readouterr()
    assert main([*given, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    protocol = {"groups": 3, "group_size": 8, "group_size_asked": 8, "seed": 0}
    assert values["rir"]["protocol"] == protocol | {"dtype": "float32, float64 where needed"}
    # LayerNorm leaves out one direction of 32, and what is left of it in float32 is rounding.
    assert values["rir"]["precision"]["initial_harmful"] == {"groups": {"float32": 3}, "all_samples": "float64"}
    # The primary data have a test split, the harmful ones have not.
    assert (values["rir"]["n_primary"], values["rir"]["n_harmful"]) == (16, 40)
    record = ImmunizationRecord.load(released)
    assert values["primary_accuracy"]["immunized"] == record.results["primary_accuracy"]["immunized"]
    assert "attacks" not in values
    assert values["data"]["primary"] == {"data": "primary", "split": "test", "rows": 16}
    assert main(given) == 0
    out, err = capsys.readouterr()
    assert f"{values['rir']['rir']['mean']:.4g}" in out
    assert "primary accuracy, immunized" in out
    assert "primary: primary, measured on test (16 rows)" in err


def test_evaluation_that_cannot_be(world, released, capsys):
    given = ["evaluate", str(released), "--base", str(world / "vit"), "--primary", str(world / "primary")]
    assert "evaluate needs --harmful" in error_of(capsys, given)
    one = error_of(capsys, [*given, "--harmful", str(world / "harmful"), "--max_samples", "1", "--json"])
    assert "two or more samples, got 1" in one
    typo = error_of(capsys, [*given, "--harmful", str(world / "harmful"), "--harmful_split", "tset", "--json"])
    assert "has the splits train; not 'tset'" in typo
