"""Options that would do nothing, or could not be done at the end, are refused or said before anything runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import error_of, training

from hf_immunize.cli.main import main
from hf_immunize.cli.refusals import check_has_a_name, check_keep, check_pushing, check_unused, kept_models
from hf_immunize.cli.train import parser as train_parser


class Reached(Exception):
    """The run would begin now."""


@pytest.fixture
def reached(monkeypatch):
    def reach(*_, **__):
        raise Reached

    for verb in ("train", "quickstart"):
        monkeypatch.setattr(f"hf_immunize.cli.{verb}.{'immunize' if verb == 'train' else verb}", reach)


def parsed(*given):
    return train_parser().parse_args(given)


@pytest.mark.parametrize(
    ("more", "fit", "there"),
    [
        ((), False, ["initial", "control"]),
        (("--attackers", "lora"), False, ["initial", "control", "primary_only"]),
        (("--attackers", "lora"), True, ["initial", "control", "primary_only", "public"]),
        (("--attackers", "lora", "--ceilings", "false"), True, ["initial", "control"]),
        (("--ceilings",), True, ["initial", "control", "primary_only", "public"]),
    ],
)
def test_the_models_that_a_run_will_have(more, fit, there):
    assert kept_models(parsed(*more), control=True, fit=fit) == there
    assert "control" not in kept_models(parsed(*more), control=False, fit=fit)
    assert kept_models(parsed(*more), control=True, fit=fit, labelled=False) == ["initial", "control"]


def test_what_will_not_be_cannot_be_kept():
    check_keep(None, ["initial"])
    check_keep(["initial"], ["initial"])
    with pytest.raises(ValueError, match=r"no 'public' to keep: this run has initial, control.*--fit_steps and --ceil"):
        check_keep(["initial", "public"], ["initial", "control"])


@pytest.mark.parametrize(
    ("more", "harmful", "told"),
    [
        (("--no_control", "--keep", "control"), "harmful", "no 'control' to keep: this run has initial. It is trained"),
        (("--keep", "public", "--ceilings"), "harmful", "no 'public' to keep"),
        (("--keep", "primary_only"), "harmful", "no 'primary_only' to keep: this run has initial, control"),
        (("--keep", "primary_only", "--ceilings"), "unlabelled", "no 'primary_only' to keep"),
    ],
)
def test_training_refuses_to_keep_what_will_not_be_before_it_begins(
    world, tmp_path, capsys, reached, more, harmful, told
):
    assert told in error_of(capsys, training(world, tmp_path / "out", *more, harmful=harmful))
    with pytest.raises(Reached):
        main(training(world, tmp_path / "out", "--keep", "primary_only", "--ceilings"))
    with pytest.raises(Reached):
        main(training(world, tmp_path / "out", "--keep", "public", "control", "--ceilings", "--fit_steps", "2"))


def test_the_quickstart_refuses_it_too(tmp_path, capsys, reached):
    given = ["quickstart", "--output_dir", str(tmp_path / "out")]
    assert "no 'public' to keep" in error_of(capsys, [*given, "--keep", "public"])
    with pytest.raises(Reached):
        main([*given, "--keep", "public", "--ceilings"])


def test_pushes_of_checkpoints_are_refused_and_what_needs_a_push_is_said(capsys):
    for given in (("--hub_strategy", "checkpoint"), ("--hub_always_push", "true")):
        with pytest.raises(ValueError, match=f"{given[0]} is about pushes of checkpoints, and none is pushed"):
            check_pushing(parsed("--push_to_hub", *given))
    check_pushing(parsed("--push_to_hub", "--hub_revision", "try", "--hub_strategy", "every_save"))
    check_pushing(parsed())
    assert not capsys.readouterr().err
    check_pushing(parsed("--hub_revision", "try", "--hub_model_id", "me/x"))
    assert "--hub_model_id and --hub_revision without --push_to_hub: nothing is pushed" in capsys.readouterr().err


def test_an_option_that_is_not_read_is_refused_with_what_to_do():
    defaults, unused = {"save_steps": 500}, {"save_steps": "Run train."}
    check_unused(SimpleNamespace(save_steps=500), defaults, unused)
    with pytest.raises(ValueError, match=r"--save_steps is not served here\. Run train\."):
        check_unused(SimpleNamespace(save_steps=7), defaults, unused)


def test_a_learning_rate_of_no_fit_is_refused(world, tmp_path, capsys, reached):
    given = training(world, tmp_path / "out", "--fit_learning_rate", "0.1")
    assert "there is none. Give --fit_steps too" in error_of(capsys, given)
    with pytest.raises(Reached):
        main([*given, "--fit_steps", "3"])


@pytest.mark.parametrize("name", [".", "..", "/", "folder/.."])
def test_a_folder_without_a_name_is_refused(world, tmp_path, capsys, reached, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="has no name, and checkpoints go beside the release"):
        check_has_a_name(Path(name))
    assert "has no name" in error_of(capsys, training(world, name))
    assert "has no name" in error_of(capsys, ["quickstart", "--output_dir", name])
    check_has_a_name(Path("folder"))
    check_has_a_name(Path("../folder/"))
