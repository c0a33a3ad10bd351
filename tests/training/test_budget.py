"""A budget of primary accuracy: kept where plain λ spends more, resumed exactly, refused where it cannot be served."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import pytest
import torch
from tiny import Images, TinyNet
from torch.utils.data import IterableDataset
from trainers import arguments, state, trainer
from transformers import TrainerCallback

from hf_immunize.errors import InputError
from hf_immunize.models.trainable import select_trainable
from hf_immunize.training.budget import AccuracyBudget, held_out_count, split_held_out
from hf_immunize.training.checks import check_objective
from hf_immunize.training.theta_zero import ThetaZero


@pytest.fixture(scope="module")
def data():
    return Images(400, seed=1), Images(120, n_classes=4, seed=2, labels=False)


@pytest.fixture(scope="module")
def fitted(data, tmp_path_factory):
    """θ0, which never saw the held-out rows."""
    torch.manual_seed(0)
    model = TinyNet()
    plain = {"lambda_primary": 0.0, "lambda_harmful": 0.0, "max_accuracy_drop": 2.0}
    trainer(tmp_path_factory.mktemp("fit"), model, data[0], None, max_steps=100, learning_rate=0.05, **plain).train()
    return state(model)


@pytest.fixture
def run_of(data, fitted, tmp_path):
    def run(folder="run", **changes):
        model = TinyNet()
        model.load_state_dict(fitted)
        values = {"max_steps": 60, "lambda_harmful": 30.0, "learning_rate": 0.02, "max_accuracy_drop": 2.0}
        return trainer(tmp_path / folder, model, *data, **(values | changes))

    return run


def held_out_accuracy(weights, data):
    """By hand, on rows that are drawn as the run draws them."""
    rows = split_held_out(data, arguments("x", max_accuracy_drop=2.0))[1].indices
    model = TinyNet()
    model.load_state_dict(weights)
    return (model.eval()(data.x[rows]).argmax(1) == data.y[rows]).double().mean().item()


def test_the_budget_is_kept_where_plain_lambda_spends_more(run_of, data, fitted):
    plain, budgeted = run_of("plain", max_accuracy_drop=None), run_of("budgeted")
    plain.train()
    budgeted.train()
    initial = held_out_accuracy(fitted, data[0])
    assert 100 * (initial - held_out_accuracy(state(plain.model), data[0])) > 10
    kept = held_out_accuracy(state(budgeted.model), data[0])
    assert 100 * (initial - kept) <= 2.0 + 1e-9
    facts = budgeted.budget.facts
    assert (facts["held_out"], facts["initial_accuracy"], facts["final_accuracy"]) == (100, initial, kept)
    assert [one["step"] for one in facts["course"]] == [10, 20, 30, 40, 50, 60]
    # It is no escape into θ0: the objective is better off than at the start.
    assert facts["kept_step"] is not None
    strength = {one["step"]: one["protection"] for one in facts["course"]}
    assert strength[facts["kept_step"]] < strength[10] - 1
    assert any(f"the weights are those of step {facts['kept_step']}" in note for note in budgeted.notes)
    logged = [entry for entry in budgeted.state.log_history if "loss" in entry]
    assert {"multiplier", "held_out_accuracy"} <= logged[-1].keys()
    for entry in logged:
        assert entry["task_loss"] + entry["r_well"] + entry["r_ill"] == pytest.approx(entry["loss"], rel=1e-4)


def test_the_multiplier_follows_the_budget_and_the_strongest_within_it_is_kept(tmp_path):
    model = TinyNet()
    select_trainable(model, "last", Images(2).x)
    theta_zero = ThetaZero(model)
    # Of 200 rows: what θ0 gets right, and then each measured state; the task's loss is no protection.
    right = iter([190, 180, 189, 188, 190, 189, 150])
    strength = [5.0, 2.0, 1.0, 3.0, 1.5, 0.5]
    notes = []
    args = arguments(tmp_path, max_accuracy_drop=1.0, max_steps=60)
    budget = AccuracyBudget(args, model, theta_zero, lambda: (next(right) / 200, 200), notes.append)

    class At:
        global_step, max_steps = 0, 60

    budget.on_train_begin(args, At, None)
    multiplier, weights = 1.0, []
    # The drops are 5, 0.5, 1, 0, 0.5 and 20 points.
    moves = [math.log(1 / 4), math.log(1.5) / 2, 0.0, math.log(1.5), math.log(1.5) / 2, math.log(1 / 4)]
    for value, move in zip(strength, moves, strict=True):
        for _ in range(10):
            parts = {"task_loss": torch.tensor(7.0), "r_ill": torch.tensor(value), "r_well": torch.tensor(1.0)}
            found = budget.weighted(parts, noted=True)
            assert found["task_loss"] == 7.0
            assert float(found["r_ill"] + found["r_well"]) == pytest.approx(multiplier * (value + 1))
            At.global_step += 1
            with torch.no_grad():
                model.score.bias += 1
            weights.append(model.score.bias.detach().clone())
            budget.on_step_end(args, At, None)
        multiplier = min(1.0, multiplier * math.exp(move))
        assert budget.multiplier == pytest.approx(multiplier)
    facts = budget.facts
    # Step 60 is stronger and spends more; step 30 is stronger than all others, and exactly on the budget.
    assert facts["kept_step"] == 30
    assert torch.equal(model.score.bias, weights[29])
    assert facts["final_accuracy"] == 188 / 200


def test_a_run_that_cannot_keep_its_budget_ends_with_theta_zero_and_says_so(run_of, fitted):
    run = run_of(learning_rate=0.5, max_steps=20, lambda_harmful=1e4, max_accuracy_drop=1.0)
    run.train()
    assert all(torch.equal(value, fitted[name]) for name, value in state(run.model).items())
    assert any("kept by none of the 2 states measured" in note for note in run.notes)
    assert (run.budget.facts["kept_step"], len(run.budget.facts["course"])) == (None, 2)
    assert run.budget.facts["final_accuracy"] == run.budget.facts["initial_accuracy"]


@pytest.mark.parametrize("stopped_at", [15, 40, 60])
def test_a_resumed_run_ends_with_the_same_weights_and_course(run_of, stopped_at):
    saves = {"save_strategy": "steps", "save_steps": 5}
    whole = run_of("whole", **saves)
    whole.train()

    class Stop(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step >= stopped_at

    first = run_of("cut", **saves)
    first.add_callback(Stop())
    first.train()
    assert first.state.global_step == stopped_at
    again = run_of("cut", **saves)
    again.train(resume_from_checkpoint=True)
    for (name, one), other in zip(state(whole.model).items(), state(again.model).values(), strict=True):
        assert torch.equal(one, other), name
    assert again.budget.facts == whole.budget.facts
    assert sorted(again.notes) == sorted(whole.notes)


def test_weights_from_before_a_checkpoint_are_kept_through_it(run_of):
    """Of a run whose steps after the checkpoint all spend too much."""
    common = {"save_strategy": "steps", "save_steps": 15, "max_steps": 20, "lambda_harmful": 0.01}
    whole = run_of("spends", **common)
    course = iter([(0.9, 100), (0.9, 100), (0.1, 100)])
    whole.budget._measured = lambda: next(course)
    whole.train()
    assert whole.budget.facts["kept_step"] == 10
    again = run_of("spends", **common)
    again.budget._measured = lambda: (0.1, 100)
    again.train(resume_from_checkpoint=str(whole.args.output_dir) + "/checkpoint-15")
    assert again.budget.facts == whole.budget.facts
    assert all(torch.equal(one, state(again.model)[name]) for name, one in state(whole.model).items())


def test_a_checkpoint_from_before_there_were_budgets_is_refused(run_of):
    run_of("old", max_accuracy_drop=None, max_steps=4, save_strategy="steps", save_steps=2).train()
    run = run_of("old", max_steps=4)
    carried = Path(run.args.output_dir) / "checkpoint-2"
    state = json.loads((carried / "immunization_state.json").read_text())
    # As an earlier version wrote it.
    del state["options"]["max_accuracy_drop"], state["budget"], state["seal"]
    seal = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
    (carried / "immunization_state.json").write_text(json.dumps(state | {"seal": seal}))
    with pytest.raises(InputError, match="of a run without a budget"):
        run.train(resume_from_checkpoint=str(carried))


def test_the_accuracy_is_the_same_through_the_cached_frozen_part(run_of):
    facts = []
    for cache in ("on", "off"):
        run = run_of(cache, cache_frozen=cache, max_steps=20)
        run.train()
        assert (run._prefix is not None) == (cache == "on")
        facts.append(run.budget.facts)
    one, other = facts
    assert one["initial_accuracy"] == other["initial_accuracy"]
    assert [step["accuracy"] for step in one["course"]] == pytest.approx([step["accuracy"] for step in other["course"]])


def test_the_control_trains_on_the_same_rows_and_keeps_no_budget(data, tmp_path):
    args = arguments(tmp_path, max_accuracy_drop=2.0)
    runs = [trainer(tmp_path, TinyNet(), *data, max_accuracy_drop=2.0)]
    runs.append(type(runs[0])(TinyNet(), args.as_control(), train_dataset=data[0]))
    rows, same = (set(run.get_train_dataloader().dataset.primary.indices) for run in runs)
    assert rows == same
    assert rows.isdisjoint(runs[0]._held_out.indices)
    assert len(rows | set(runs[0]._held_out.indices)) == 400
    assert runs[0].budget is not None
    assert runs[1].budget is None


def test_a_budget_below_the_sampling_error_is_said(run_of):
    for points, said in ((2.0, True), (30.0, False)):
        run = run_of(f"error{points}", max_steps=1, max_accuracy_drop=points)
        run.train()
        assert any("below the sampling error of 100 rows" in note for note in run.notes) == said


@pytest.mark.parametrize(
    ("n", "points", "expected"),
    [(2_000, 0.5, 200), (400, 0.5, 200), (5_000, 0.5, 500), (60_000, 0.05, 1_000), (200, 9, 100)],
)
def test_enough_rows_are_held_out_to_resolve_the_budget(n, points, expected):
    assert held_out_count(n, points) == expected


class Stream(IterableDataset):
    def __iter__(self):
        return iter([{"pixel_values": torch.zeros(3, 8, 8), "labels": 0}] * 4)


def test_what_cannot_be_served_is_refused(tmp_path, tiny_net, data):
    with pytest.raises(InputError, match="a stream has none"):
        trainer(tmp_path, tiny_net, Stream(), Stream(), max_accuracy_drop=1.0)
    with pytest.raises(InputError, match="takes 200 held-out rows, and of 96 primary rows only 0"):
        trainer(tmp_path, tiny_net, Images(96, seed=1), data[1], max_accuracy_drop=0.5)
    with pytest.raises(InputError, match="Leave one away"):
        arguments(
            tmp_path,
            max_accuracy_drop=0.5,
            load_best_model_at_end=True,
            eval_strategy="steps",
            save_strategy="steps",
        )
    for value in (0, -1, 100, float("nan")):
        with pytest.raises(InputError, match="points between 0 and 100"):
            arguments(tmp_path, max_accuracy_drop=value)


@pytest.mark.parametrize("objective", ["purge", "simulated_attackers"])
def test_an_objective_whose_parts_do_not_compare_over_the_run_keeps_no_budget(tmp_path, objective):
    args = arguments(tmp_path, max_accuracy_drop=1.0, objective=objective)
    with pytest.raises(InputError, match=f"max_accuracy_drop.*{objective}"):
        check_objective(args.made_objective(), args)
