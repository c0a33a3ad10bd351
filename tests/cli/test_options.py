"""Options of the verbs: each once, with its default, and the same as in Python."""

from __future__ import annotations

import argparse
import dataclasses
import re
from pathlib import Path

import pytest

import hf_immunize
from hf_immunize import ImmunizationArguments
from hf_immunize.attacks.suite import CARD_BUDGETS
from hf_immunize.cli.config import parse
from hf_immunize.cli.options import (
    AttackOptions,
    EvaluateOptions,
    ReadOptions,
    ReleaseOptions,
    TrainOptions,
    budgets_of,
    most_of,
    task_options,
)
from hf_immunize.cli.train import parser as train_parser


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


def test_budgets_are_those_named_and_else_the_defaults():
    options = argparse.Namespace(finetune_steps=[10, 30, 100, 300, 1000], finetune_samples=["5,20", "all"], steps=None)
    found = budgets_of(options, CARD_BUDGETS)
    assert found.finetune_steps == (10, 30, 100, 300, 1000)
    assert found.finetune_samples == (5, 20, None)
    assert (found.samples, found.steps, found.seeds) == (CARD_BUDGETS.samples, CARD_BUDGETS.steps, CARD_BUDGETS.seeds)
    with pytest.raises(ValueError, match="Expected numbers or all, like 10 100 all, got many"):
        budgets_of(argparse.Namespace(samples=["many"]), CARD_BUDGETS)


def test_ceilings_are_asked_for_or_left_out_or_left_to_the_attackers(tmp_path):
    given = ["--output_dir", str(tmp_path)]
    found = [parse(train_parser(), [*given, *more]).ceilings for more in ([], ["--ceilings"], ["--ceilings", "false"])]
    assert found == [None, True, False]


def test_advice_to_pass_an_argument_names_the_option_too():
    # What is said to a program, x=True, is also read by somebody at a command line.
    package = Path(hf_immunize.__file__).parent
    options = {
        one.name
        for kind in (TrainOptions, ReleaseOptions, EvaluateOptions, AttackOptions, ReadOptions)
        for one in dataclasses.fields(kind)
    }
    for path in package.rglob("*.py"):
        text = re.sub(r'"\n\s*f?"', "", path.read_text(encoding="utf-8"))
        for name in re.findall(r"pass (\w+)=True(?! \(--)", text):
            assert name not in options, f"{path.name}: pass {name}=True (--{name})"


def test_fewer_rows_of_a_stream_are_taken_unless_their_number_is_given():
    def most(given, streaming):
        return most_of(argparse.Namespace(max_samples=given, streaming=streaming), 5_000)

    assert (most(None, False), most(None, True)) == (5_000, 2_000)
    assert (most(7, False), most(9_000, True)) == (7, 9_000)
    with pytest.raises(ValueError, match="max_samples must be 1 or more, got 0"):
        most(0, False)
