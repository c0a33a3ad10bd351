"""`hf-immunize attack`: from folders to a report and its figure."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from samples import tiny_vit
from tiny import picture_dataset

from hf_immunize.attacks.report import AttackReport
from hf_immunize.cli.main import main
from hf_immunize.errors import InputError
from hf_immunize.release.target import claimed


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two small models and labelled pictures, as folders."""
    folder = tmp_path_factory.mktemp("world")
    for name in ("base", "model"):
        model, processor = tiny_vit(("crow", "owl"))
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    picture_dataset(60, seed=0).save_to_disk(folder / "harmful")
    picture_dataset(40, seed=1).save_to_disk(folder / "other")
    picture_dataset(40, seed=1).remove_columns("label").save_to_disk(folder / "unlabelled")
    return folder


def command(world, *more):
    given = ["attack", str(world / "model"), "--base", str(world / "base"), "--harmful", str(world / "harmful")]
    return [*given, "--steps", "5", "20", "--finetune_steps", "2", "--samples", "5,all", "--seeds", "0", *more]


def test_attack_writes_a_report_and_a_figure_and_prints_the_verdict(world, tmp_path, capsys):
    more = [
        "--attackers",
        "probes",
        "last-block",
        "--benign",
        str(world / "other"),
        "--output_dir",
        str(tmp_path / "out"),
    ]
    assert main(command(world, *more)) == 0
    out = capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["attacks.json", "attacks.png", "trials.png"]
    report = AttackReport.from_dict(json.loads((tmp_path / "out" / "attacks.json").read_text()))
    assert report.verdict["text"] in out
    assert report.models == ["initial", "immunized", "scratch"]
    assert report.budgets["samples"] == [5, None]
    assert list(report.worst_case["probe"]["immunized"]) == ["5", "all"]
    assert "last block" in report.attackers
    assert report.selectivity["against"] == "initial"
    # Two models with the same weights are one to every attacker.
    assert all(one["accuracy"]["initial"] == one["accuracy"]["immunized"] for one in report.attackers.values())
    assert main(command(world, *more)) == 1
    assert "--overwrite" in capsys.readouterr().err
    # A picture of the same name may be the user's own.
    (tmp_path / "out" / "attacks.json").unlink()
    assert main(command(world, *more)) == 1
    assert "attacks.png exists" in capsys.readouterr().err
    assert main(command(world, *more, "--attackers", "adam", "ridge", "--overwrite", "--json", "--no_scratch")) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["reference"] == "chance"
    assert printed == json.loads((tmp_path / "out" / "attacks.json").read_text())


def test_what_an_attacker_has_anyway_is_attacked_alike(world, tmp_path, capsys):
    more = ["--attackers", "ridge", "--public", str(world / "base"), "--primary_only", str(world / "model")]
    assert main(command(world, *more, "--json")) == 0
    out, _ = capsys.readouterr()
    report = AttackReport.from_dict(json.loads(out))
    assert report.models == ["initial", "immunized", "scratch", "primary_only", "public"]
    assert report.uplift["ceilings"] == ["scratch", "primary_only", "public"]
    # All three are the same weights here.
    cells = report.uplift["worst_case"]["probe"]["immunized"]["all"].values()
    assert all(cell["value"] <= 0 for cell in cells)
    assert "The release gives an attacker nothing beyond" in report.verdict["text"]
    assert "Not measured" not in report.verdict["text"]


def test_a_ceiling_that_reads_pictures_otherwise_is_refused(world, tmp_path, capsys):
    model, processor = tiny_vit(("crow", "owl"))
    processor.image_mean = [0.1, 0.2, 0.3]
    for part in (model, processor):
        part.save_pretrained(tmp_path / "other")
    assert main(command(world, "--attackers", "ridge", "--public", str(tmp_path / "other"))) == 1
    assert "image processor of --public prepares pictures otherwise" in capsys.readouterr().err


def test_budgets_of_many_steps_are_taken(world, capsys):
    given = [*command(world, "--attackers", "last-block", "--json"), "--finetune_samples", "5", "--finetune_steps"]
    # Beside the 2 that stands there before.
    assert main([*given, "3", "300"]) == 0
    report = AttackReport.from_dict(json.loads(capsys.readouterr().out))
    assert list(report.worst_case["fine-tuning"]["immunized"]["5"]) == ["2", "3", "300"]
    assert list(report.trials["fine-tuning"]["immunized"]) == ["2", "3", "300"]
    assert "At 300 steps the search" in str(report)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--harmful", "{}/unlabelled"], "no column of labels"),
        (["--base", ""], "attack needs --base"),
        (["--seeds", "-1"], "seeds must hold whole numbers"),
    ],
)
def test_mistakes_are_said_in_one_line(world, capsys, more, message):
    given = command(world, "--attackers", "probes", *(one.format(world) for one in more))
    assert main(given) == 1
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_the_output_folder_is_made_and_locked_before_anything_is_loaded(world, tmp_path, capsys, monkeypatch):
    def loaded(*args, **kwargs):
        assert (tmp_path / "deep" / "out").is_dir()
        raise InputError("loading began")

    monkeypatch.setattr("hf_immunize.cli.attack.load_model", loaded)
    (tmp_path / "file").write_text("mine")
    for name in ("file", "file/out"):
        assert main(command(world, "--attackers", "ridge", "--output_dir", str(tmp_path / name))) == 1
        assert "loading began" not in capsys.readouterr().err
    with claimed(tmp_path / "held"):
        held = [sys.executable, "-m", "hf_immunize.cli.main"]
        held += command(world, "--attackers", "ridge", "--output_dir", str(tmp_path / "held"))
        found = subprocess.run(held, capture_output=True, text=True, timeout=120)
        assert found.returncode == 1
        assert "Another run is writing" in found.stderr
    assert main(command(world, "--attackers", "ridge", "--output_dir", str(tmp_path / "deep" / "out"))) == 1
    assert "loading began" in capsys.readouterr().err
    assert not (tmp_path / "deep" / "out").exists()
