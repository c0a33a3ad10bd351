"""Arguments that cannot be say so when they are made."""

from __future__ import annotations

import math
from importlib.util import find_spec

import pytest
from trainers import arguments, trainer

from hf_immunize import ImmunizationArguments
from hf_immunize.errors import InputError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lambda_primary": -1.0}, "lambda_primary must be a finite number, zero or more, got -1.0"),
        ({"lambda_harmful": float("nan")}, "lambda_harmful must be a finite number"),
        ({"lambda_harmful": "5e-5"}, "YAML reads 5e-5 as a word"),
        ({"rir_group_size": 1}, "rir_group_size must be a whole number of 2 or more, got 1"),
        ({"remove_unused_columns": True}, "nested batches"),
        ({"label_smoothing_factor": 1.5}, "between 0 and 1, got 1.5"),
        ({"include_for_metrics": ["loss", "logits"]}, "can hold inputs and loss, got logits"),
        ({"report_to": "a tool"}, "report_to: a tool is not installed"),
        ({"accelerator_config": {"split": True}}, "split"),
        ({"save_strategy": "sometimes"}, "sometimes"),
        ({"objective": "conditon"}, "condition"),
    ],
)
def test_arguments_that_cannot_be(tmp_path, tiny_net, primary, harmful, changes, message):
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, tiny_net, primary, harmful, **changes)


def test_steps_beside_epochs_decide_and_that_is_said(tmp_path, caplog):
    with caplog.at_level("WARNING"):
        args = arguments(tmp_path, max_steps=7, num_train_epochs=2)
    assert "max_steps=7 decides; num_train_epochs=2 does not" in caplog.text
    assert args.max_steps == 7


@pytest.mark.parametrize(
    ("metric", "larger"), [("eval_rir", True), ("rir_i", True), ("eval_rir_ii", False), ("loss", False)]
)
def test_which_way_a_metric_is_better(tmp_path, metric, larger):
    args = arguments(tmp_path, metric_for_best_model=metric)
    assert args.greater_is_better is larger
    assert (
        arguments(tmp_path, metric_for_best_model=metric, greater_is_better=not larger).greater_is_better is not larger
    )


def test_accumulation_says_of_what_the_regularizers_are_taken():
    (field,) = [
        one for one in ImmunizationArguments.__dataclass_fields__.values() if one.name == "gradient_accumulation_steps"
    ]
    assert "regularizers are those of each, averaged" in field.metadata["help"]


def test_mistakes_of_training_arguments_are_the_users(tmp_path):
    with pytest.raises(InputError, match="load_best_model_at_end"):
        arguments(tmp_path, load_best_model_at_end=True, save_strategy="steps")


def made(**changes):
    return ImmunizationArguments("", use_cpu=True, report_to="none", **changes)


def test_no_clipping_has_two_names():
    assert made(max_grad_norm=None).max_grad_norm == 0.0


def test_weights_are_the_objectives_own_unless_given():
    assert (made().lambda_primary, made().lambda_harmful) == (1.0, 0.3)
    own = made(objective="simulated_attackers")
    assert (own.lambda_primary, own.lambda_harmful, own.max_steps) == (1.0, 1.0, 600)
    assert (made().max_steps, made().selection, made().harmful_batch_size) == (300, "last", 64)
    assert (own.selection, own.harmful_batch_size) == ("all", 160)
    assert made(objective="simulated_attackers", trainable=["last"], max_steps=7).selection == "last"
    assert made(objective="simulated_attackers", lambda_harmful=0.5).lambda_harmful == 0.5


def test_further_arguments_reach_the_objective_from_python_and_as_json():
    given = made(objective="lto", objective_kwargs={"inner_steps": 3}).made_objective()
    written = made(objective="lto", objective_kwargs='{"inner_steps": 3}').made_objective()
    assert given.inner_steps == written.inner_steps == 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("inner_steps=3", "JSON"),
        ("[3]", "dictionary"),
        ('{"steps": 3}', "steps"),
        ('{"lambda_harmful": 1.0}', "--lambda_harmful"),
        ('{"inner_steps": 0}', "inner_steps must be"),
    ],
)
def test_further_arguments_that_do_not_fit_are_refused(given, said):
    with pytest.raises(InputError, match=said):
        made(objective="lto", objective_kwargs=given)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_steps": 0}, "No step would be made"),
        ({"num_train_epochs": 0}, "No step would be made"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size must be a whole number of 1 or more, got 0"),
        ({"max_steps": "20"}, "max_steps must be a whole number of -1 or more, got '20'"),
        ({"rir_groups": "20"}, "rir_groups must be a whole number of 1 or more"),
        ({"learning_rate": "5e-5"}, "learning_rate must be a number of 0 or more, got '5e-5'"),
        ({"learning_rate": float("nan")}, "learning_rate must be a number of 0 or more, got nan"),
        ({"weight_decay": -1}, "weight_decay must be a number of 0 or more"),
        ({"seed": 2**40}, "seed must be 4294967295 or less, got 1099511627776"),
        ({"adam_beta1": 2.0}, "adam_beta1 must be a number from 0 to below 1, got 2.0"),
        ({"adam_beta2": math.nan}, "adam_beta2 must be a number from 0 to below 1, got nan"),
        ({"adam_epsilon": -1.0}, "adam_epsilon must be a number of 0 or more, got -1.0"),
        ({"seed": None}, "seed must be a whole number of 0 or more"),
        ({"save_strategy": "best"}, "save_strategy='best' needs the name of what is best"),
        ({"load_best_model_at_end": True}, "load_best_model_at_end chooses among evaluations"),
        ({"optim": "sgd", "optim_args": "momentum"}, "optim_args must be name=value"),
        ({"fp16": True}, "fp16=True does nothing on a CPU"),
        pytest.param(
            {"optim": "adamw_bnb_8bit"},
            r"optim=.*adamw_bnb_8bit.*bitsandbytes",
            marks=pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed"),
        ),
    ],
)
def test_what_would_be_ignored_or_fail_later_is_refused(tmp_path, changes, said):
    with pytest.raises((ValueError, ImportError), match=said):
        ImmunizationArguments(str(tmp_path), use_cpu=True, **changes)
