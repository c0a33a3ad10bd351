"""Fit, run, control and measuring: none is done twice by a call that goes on."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from kills import without_clock
from planted import QUICK
from tiny import Images, TinyNet
from trainers import arguments

from hf_immunize import immunize
from hf_immunize.training import immunize as path
from hf_immunize.training.trainer import ImmunizationTrainer


def few(folder, **changes):
    values = {"max_steps": 4, "per_device_train_batch_size": 8, "save_strategy": "steps", "save_steps": 2}
    return arguments(folder, **(values | changes))


def start():
    torch.manual_seed(0)
    return TinyNet(dropout=0.2).eval()


def call(folder, resume=None, **more):
    data = ((Images(48, seed=1), Images(32, seed=2)), (Images(40, seed=3), Images(24, seed=4)))
    args = few(folder, resume_from_checkpoint=resume, **more.pop("changes", {}))
    options = {"fit_steps": 3, "fit_learning_rate": 0.05, "attackers": "ridge regression", "budgets": QUICK}
    options |= {"ceilings": more.get("attackers", "some") is not None, "ceiling_steps": 5}
    return immunize(more.pop("network", None) or start(), *data, args, **(options | more))


def results_of(run):
    """In the form of JSON, in which no number is unlike itself."""
    return without_clock(run.record.to_dict()["results"])


@pytest.fixture
def done(monkeypatch):
    """Steps by stage and measurements, and a stop before one of them."""
    counts, stop = Counter(), {}
    compute_loss, measure = ImmunizationTrainer.compute_loss, path.measure

    def passes(stage):
        if stop.get(stage) == counts[stage]:
            raise KeyboardInterrupt
        counts[stage] += 1

    def counted(self, *args, **kwargs):
        folder = self.args.output_dir.rpartition("/")[2]
        passes(folder if folder in ("fit", "control", "primary_only") else "run")
        return compute_loss(self, *args, **kwargs)

    def measured(*args, **kwargs):
        passes("measure")
        return measure(*args, **kwargs)

    monkeypatch.setattr(ImmunizationTrainer, "compute_loss", counted)
    monkeypatch.setattr(path, "measure", measured)
    return counts, stop


@pytest.mark.parametrize(
    ("stage", "after", "again"),
    [
        ("fit", 1, {"fit": 3, "run": 4, "control": 4, "primary_only": 5, "measure": 1}),
        ("fit", 2, {"fit": 1, "run": 4, "control": 4, "primary_only": 5, "measure": 1}),
        ("run", 1, {"run": 4, "control": 4, "primary_only": 5, "measure": 1}),
        ("run", 3, {"run": 2, "control": 4, "primary_only": 5, "measure": 1}),
        ("control", 3, {"control": 2, "primary_only": 5, "measure": 1}),
        ("primary_only", 3, {"primary_only": 3, "measure": 1}),
        ("measure", 0, {"measure": 1}),
        ("nothing", 0, {}),
    ],
)
def test_a_stage_that_is_finished_is_not_done_again(tmp_path, done, stage, after, again):
    counts, stop = done
    whole = call(tmp_path / "whole")
    counts.clear()
    stop[stage] = after
    if stage == "nothing":
        call(tmp_path / "cut")
    else:
        with pytest.raises(KeyboardInterrupt):
            call(tmp_path / "cut")
    stop.clear()
    counts.clear()
    run = call(tmp_path / "cut", resume="last")
    assert counts == again
    for name in ("initial", "model", "control"):
        for key, value in getattr(whole, name).state_dict().items():
            assert torch.equal(getattr(run, name).state_dict()[key], value), (name, key)
    for name in ("primary_only", "public"):
        for key, value in whole.ceilings[name].state_dict().items():
            assert torch.equal(run.ceilings[name].state_dict()[key], value), (name, key)
    # The public weights are those that were given, whatever the fit made of them in place.
    assert all(
        torch.equal(value, start().state_dict()[key]) for key, value in run.ceilings["public"].state_dict().items()
    )
    assert results_of(run) == results_of(whole)
    assert run.record.training["primary_only"].keys() == {"steps", "learning_rate", "optimizer", "seconds", "accuracy"}
    assert run.notes == whole.notes
    assert run.record.training["steps"] == 4


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"fit_steps": 2}, r"fit \{'steps': 3.*now \{'steps': 2"),
        ({"changes": {"lambda_harmful": 0.5}}, r"lambda_harmful 1\.0, now 0\.5"),
        ({"changes": {"seed": 1}}, "seed 42, now 1"),
        ({"network": TinyNet()}, "model '.*', now '"),
    ],
)
def test_other_options_are_refused(tmp_path, more, told):
    call(tmp_path, control=False, attackers=None)
    with pytest.raises(ValueError, match=told):
        call(tmp_path, resume="last", control=False, attackers=None, **more)


def test_what_is_measured_otherwise_is_measured_again(tmp_path, done):
    counts, _ = done
    call(tmp_path, control=False, attackers=None)
    counts.clear()
    run = call(tmp_path, resume="last", control=False, ceilings=False)
    assert counts == {"measure": 1}
    assert "attacks" in run.results


def test_nothing_is_kept_where_nothing_is_saved(tmp_path):
    run = call(tmp_path / "none", changes={"save_strategy": "no"}, control=False, attackers=None)
    assert not [path for path in (tmp_path / "none").rglob("*") if path.is_file()]
    again = call(tmp_path / "none", changes={"save_strategy": "no"}, control=False, attackers=None)
    assert results_of(run) == results_of(copy.copy(again))


def test_what_a_later_stage_would_refuse_is_refused_before_the_first(tmp_path):
    network = start()
    before = copy.deepcopy(network.state_dict())
    changes = {
        "lr_scheduler_type": "reduce_lr_on_plateau",
        "eval_strategy": "steps",
        "eval_steps": 2,
        "metric_for_best_model": "loss",
    }
    no_fit = {"fit_steps": 0, "fit_learning_rate": None}
    with pytest.raises(ValueError, match="follows evaluations, and a fit and the control make none"):
        call(tmp_path, network=network, changes=changes)
    with pytest.raises(ValueError, match="fit_learning_rate is that of the fit before, and there is none"):
        call(tmp_path, network=network, fit_steps=0)
    with pytest.raises(ValueError, match="both 0: this is plain fine-tuning"):
        call(tmp_path, network=network, changes={"push_to_hub": True, "lambda_primary": 0.0, "lambda_harmful": 0.0})
    torch.testing.assert_close(network.state_dict(), before)
    done = call(tmp_path, network=network, changes=changes, **no_fit, control=False, attackers=None)
    assert done.record.training["lr_scheduler"] == "reduce_lr_on_plateau"
