"""Options of the verbs: each once, with its default, and the same as in Python."""

from __future__ import annotations

import dataclasses

import pytest

from hf_immunize import ImmunizationArguments
from hf_immunize.cli.config import parse
from hf_immunize.cli.main import VERBS, main
from hf_immunize.cli.options import TrainOptions, task_options
from hf_immunize.cli.train import parser as train_parser


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_every_option_once_with_its_default(capsys, verb):
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert f"usage: hf-immunize {verb}" in out
    assert "--config" in out
    assert "--json" in out
    assert "-split" not in out
    if verb in ("train", "quickstart"):
        assert "{condition,r_ill_only,opt_kappa,opt_log_kappa,imma}" in out
        assert "(default: 0.0005)" in out
        assert "--neftune_noise_alpha" not in out
        with pytest.raises(SystemExit):
            main([verb, "--help_all"])
        assert "--neftune_noise_alpha" in capsys.readouterr().out
    if verb in ("train", "attack", "quickstart"):
        assert "all, probes, finetuning, gd, " in " ".join(out.split()) or verb == "quickstart"


def test_defaults_are_those_of_python(tmp_path):
    own = train_parser()
    options = parse(own, ["--output_dir", str(tmp_path)])
    assert own.of(ImmunizationArguments, options).to_dict() == ImmunizationArguments(str(tmp_path)).to_dict()
    assert own.of(ImmunizationArguments, options).max_steps == 300
    by_epochs = parse(own, ["--output_dir", str(tmp_path), "--num_train_epochs", "2"])
    assert own.of(ImmunizationArguments, by_epochs).max_steps == -1


def test_a_task_has_a_split_to_train_on_only_where_something_trains():
    both = [one.name for one in dataclasses.fields(task_options("primary", "The task"))]
    assert both == [
        "primary",
        *(f"primary_{name}" for name in ("config", "split", "eval_split", "image_column", "label_column")),
    ]
    measured = [one.name for one in dataclasses.fields(task_options("harmful", "The task", training=False))]
    assert "harmful_split" in measured
    assert "harmful_eval_split" not in measured


def test_options_come_back_as_their_dataclass_with_changes_over_them():
    own = train_parser()
    options = parse(own, ["--output_dir", "out", "--new_head", "--fit_steps", "7"])
    found = own.of(TrainOptions, options, fit_steps=9)
    assert isinstance(found, TrainOptions)
    assert (found.new_head, found.fit_steps, found.control) == (True, 9, True)
