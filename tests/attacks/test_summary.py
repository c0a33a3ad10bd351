"""From outcomes to recovery, intervals, worst case and cost."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from samples import ACCURACY, attack_report, outcomes

from hf_immunize.attacks import ATTACKERS, Budgets
from hf_immunize.attacks.judging import Outcome
from hf_immunize.attacks.summary import summarise


def test_recovery_and_its_interval_follow_the_formula():
    report = attack_report()
    name = "gradient descent, 1/L"
    expected = (0.62 - 0.4) / (0.954 - 0.4)
    assert report.recovery[name]["value"] == pytest.approx(expected)
    assert report.recovery[name]["low"] < expected < report.recovery[name]["high"]
    assert report.reference == "scratch"
    without = {
        name: {model: value for model, value in one.items() if model != "scratch"} for name, one in ACCURACY.items()
    }
    beside_chance = attack_report(without)
    assert beside_chance.reference == "chance"
    assert beside_chance.recovery[name]["value"] == pytest.approx((0.62 - 0.2) / (0.954 - 0.2))


def test_the_worst_case_is_the_strongest_at_each_budget():
    report = attack_report()
    assert report.strongest("immunized") == ("Adam, best rate", pytest.approx(0.684))
    first = report.worst_case["probe"]["immunized"]["all"]["10"]
    assert first["mean"] == pytest.approx(0.342)
    for by_steps in itertools.chain.from_iterable(one.values() for one in report.worst_case["probe"].values()):
        for step, cell in by_steps.items():
            assert cell["mean"] == max(
                one["accuracy"][model]["all"][step]["mean"]
                for one in report.attackers.values()
                for model, rows in report.worst_case["probe"].items()
                if rows["all"] is by_steps
            )


def test_costs_are_counted_in_budgets_of_the_initial_model():
    report = attack_report()
    slow = report.slowdown["gradient descent, 1/L"]
    assert (slow["initial"], slow["immunized"], slow["reached"]) == ("300", None, False)
    easy = {name: one | {"immunized": one["initial"]} for name, one in ACCURACY.items()}
    same = attack_report(easy)
    assert same.slowdown["Adam, best rate"]["ratio"] == 1
    assert same.cost_ratio["probe"]["steps"]["ratio"] == 1


def test_planted_outcomes_are_what_they_say():
    planted = outcomes(m=1000)
    assert np.isclose(float(planted["Adam, best rate", "immunized", None, 300][0].correct.double().mean()), 0.684)


def test_a_recovery_needs_headroom_beyond_chance():
    near = {name: one | {"scratch": one["initial"] - 0.04} for name, one in ACCURACY.items()}
    assert attack_report(near).recovery["Adam, best rate"]["value"] is None
    # Six points are enough of 500 rows, but within chance of 40.
    near = {"Adam, best rate": {"initial": 0.6, "control": 0.6, "immunized": 0.1, "scratch": 0.5}}
    enough, few = (
        summarise(
            outcomes(near, m=m),
            [ATTACKERS["Adam, best rate"]],
            Budgets((None,), (10, 300), seeds=(0, 1)),
            benign={},
            exact={},
            chance=0.2,
            n_train=100,
            n_test=m,
            notes=[],
        )
        for m in (500, 30)
    )
    assert enough.recovery["Adam, best rate"]["value"] == pytest.approx(-4, abs=0.1)
    assert few.verdict["outcome"]["probe"] == "undecided"


def test_the_cost_is_steps_on_the_immunized_model_over_steps_on_the_initial_one():
    found = {
        ("Adam, best rate", model, None, step): [Outcome("", 0, torch.arange(100) < 100 * share)]
        for model, shares in (("initial", (0.2, 0.9, 0.9)), ("immunized", (0.2, 0.3, 0.85)))
        for step, share in zip((10, 30, 300), shares, strict=True)
    }
    report = summarise(
        found,
        [ATTACKERS["Adam, best rate"]],
        Budgets((None,), (10, 30, 300), seeds=(0,)),
        benign={},
        exact={},
        chance=0.2,
        n_train=100,
        n_test=100,
        notes=[],
    )
    cost = report.slowdown["Adam, best rate"]
    assert (cost["initial"], cost["immunized"], cost["ratio"], cost["at_least"]) == ("30", "300", 10.0, False)
    assert report.verdict["slowed"] == {"Adam, best rate": 10.0}
