"""From outcomes to recovery, intervals, worst case, cost and verdict."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from samples import ACCURACY, attack_report, outcomes

from hf_immunize.attacks import ATTACKERS, Budgets
from hf_immunize.attacks.judging import Outcome
from hf_immunize.attacks.report import largest
from hf_immunize.attacks.summary import summarise
from hf_immunize.attacks.verdict import THRESHOLDS, verdict


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


def test_the_interval_is_that_of_a_share():
    cell = largest(attack_report().attackers["Adam, best rate"]["accuracy"]["immunized"])
    error = math.sqrt(0.684 * 0.316 / 500)
    assert cell["mean"] == pytest.approx(0.684)
    assert cell["low"] == pytest.approx(0.684 - 1.96 * error, abs=0.01)
    assert cell["high"] == pytest.approx(0.684 + 1.96 * error, abs=0.01)


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


@pytest.mark.parametrize(
    ("value", "outcome"), [(0.95, "broken"), (0.9, "broken"), (0.89, "weakened"), (0.5, "weakened"), (0.49, "held")]
)
def test_the_words_of_the_verdict_follow_the_thresholds(value, outcome):
    judged = verdict({"Adam": {"value": value}}, {}, {"Adam": "probe"}, None)
    assert judged["outcome"] == {"probe": outcome, "fine-tuning": "not tried"}
    assert ("broken by: Adam" in judged["text"]) == (outcome == "broken")
    assert judged["broken_by"] == (["Adam"] if outcome == "broken" else [])
    assert "immunized" not in judged["text"].lower()
    assert "Fine-tuning of the features: not tried." in judged["text"]
    assert judged["thresholds"] == THRESHOLDS


def test_names_that_hold_commas_can_be_told_apart_in_a_verdict():
    names = ["last block, re-initialised", "all weights", "LoRA"]
    recovery = {name: {"value": value} for name, value in zip(names, (0.97, 0.92, 0.4), strict=True)}
    judged = verdict(recovery, {}, dict.fromkeys(names, "fine-tuning"), None)
    assert (
        "Fine-tuning of the features: broken by: last block, re-initialised; all weights. The strongest (last block, "
        "re-initialised) recovers 97 % of what θ0 gives beyond random weights."
    ) in judged["text"]


def test_the_verdict_tells_slowness_cost_and_what_cannot_be_told():
    slow = {
        "Adam": {"ratio": 3.0, "reached": True},
        "ridge": {"ratio": None, "reached": False},
        "k": {"ratio": 2.9, "reached": True},
    }
    kinds = dict.fromkeys(slow, "probe")
    judged = verdict({name: {"value": 0.2} for name in slow}, slow, kinds, 0.06)
    assert judged["slowed"] == {"Adam": 3.0, "ridge": None}
    assert "Slowed on the way to 90 % of their accuracy on θ0: Adam (3 times the steps)." in judged["text"]
    assert "Within their steps these do not reach 90 % of their accuracy on θ0: ridge." in judged["text"]
    none = verdict({}, {name: {"ratio": None, "reached": False} for name in slow}, kinds, None)
    assert "None of the 3 heads reaches 90 % of its accuracy on θ0 within its steps." in none["text"]
    assert "these do not" not in none["text"]
    assert "loses 6.0 points" in judged["text"]
    undecided = verdict({"Adam": {"value": None}}, {}, {"Adam": "probe"}, 0.01)
    assert undecided["outcome"]["probe"] == "undecided"
    assert "Not selective" not in undecided["text"]
    flat = {name: dict.fromkeys(one, 0.3) for name, one in ACCURACY.items()}
    assert attack_report(flat).recovery["Adam, best rate"]["value"] is None


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


def test_sentences_name_what_was_measured_against():
    slow = {"Adam": {"ratio": 3.0, "reached": True, "at_least": True}}
    judged = verdict({"Adam": {"value": 0.2}}, slow, {"Adam": "probe"}, 0.2, against="initial", reference="chance")
    assert "beyond chance" in judged["text"]
    assert "against θ0" in judged["text"]
    assert "Adam (at least 3 times the steps)" in judged["text"]
    assert "random weights" not in judged["text"]
    assert "the control" not in judged["text"]
