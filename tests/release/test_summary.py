"""What a card says first: words for every outcome, five numbers, digits that people can read."""

from __future__ import annotations

import math

import pytest
from samples import ACCURACY, attack_report, rir_report, sample_record

from hf_immunize.release.summary import five_numbers, number, percent, state, steps_of, verdict_sentences


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (-0.0, "0"),
        (999.4, "999"),
        (999.5, "1000"),
        (-999.6, "-1000"),
        (9999.4, "9999"),
        (9999.6, "1.0 × 10⁴"),
        (0.108, "0.108"),
        (26.0, "26"),
        (150.3, "150"),
        (4321.0, "4321"),
        (2.1e7, "2.1 × 10⁷"),
        (3e-5, "3.0 × 10⁻⁵"),
        (5.48e22, "5.5 × 10²²"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (math.nan, "not a number"),
    ],
)
def test_numbers_are_short(value, text):
    assert number(value) == text


def test_shares_and_steps():
    assert percent(0.9642) == "96.4 %"
    assert percent(None) == "–"
    assert steps_of(1157) == "1,157"
    assert steps_of(835_720_537) == "8.4 × 10⁸"
    assert steps_of(None) == "> 10¹⁵"


@pytest.mark.parametrize(
    ("recovery", "word"), [(-0.2, "held"), (0.49, "held"), (0.5, "weakened"), (0.86, "weakened"), (0.9, "broken")]
)
def test_every_recovery_has_a_word(recovery, word):
    assert state({"value": recovery}) == word
    assert state({"value": None}) == "undecided"


def with_immunized(probe, tuning=None, **changes):
    accuracy = {"Adam, best rate": ACCURACY["Adam, best rate"] | {"immunized": probe}}
    if tuning is not None:
        accuracy["all weights"] = {"initial": 0.95, "control": 0.94, "immunized": tuning, "scratch": 0.5}
    record = sample_record()
    record.results["attacks"] = attack_report(accuracy, **changes).to_dict()
    return record


@pytest.mark.parametrize(
    ("immunized", "words"), [(0.45, "**held back**"), (0.75, "**held back in part**"), (0.95, "**not held back**")]
)
def test_each_outcome_is_said_in_words(immunized, words):
    sentences = verdict_sentences(with_immunized(immunized))
    assert words in sentences[0]
    assert f"one way gets {100 * immunized:.1f} %" in sentences[0]
    assert "93.0 % after plain fine-tuning" in sentences[0]
    assert "on random weights 40.0 %" in sentences[0]
    assert sentences[1] == "Fine-tuning of the weights: **not measured; assume that it succeeds**."


def test_fine_tuning_and_the_price_stand_beside_it():
    benign = {"Adam, best rate": {"initial": 0.8, "control": 0.79, "immunized": 0.75, "scratch": 0.3}}
    sentences = verdict_sentences(with_immunized(0.45, 0.94, benign=benign))
    assert "Fine-tuning of the weights: **not held back**" in sentences[1]
    assert sentences[2] == (
        "A new head for an unrelated task that training never saw costs 4.0 points against the control."
    )
    spared = {"Adam, best rate": {"initial": 0.8, "control": 0.7, "immunized": 0.75, "scratch": 0.3}}
    assert "costs nothing" in verdict_sentences(with_immunized(0.45, 0.94, benign=spared))[2]


def test_a_model_that_nobody_attacked_is_called_that():
    record = sample_record()
    del record.results["attacks"]
    assert verdict_sentences(record) == ["No attacker was run on this model: nothing is known of what it stops."]


def test_the_five_numbers_are_those_of_the_record():
    models, rows = five_numbers(sample_record())
    assert models == ["before (θ0)", "control", "immunized"]
    cells = {row["what"].split(";")[0]: row["cells"] for row in rows}
    assert cells["the kept task, accuracy"] == ["96.8 %", "97.4 %", "96.4 %"]
    assert cells["the harmful task, the best new head"] == ["95.4 %", "93.0 %", "68.4 %"]
    assert cells["an unrelated task, the best new head"] == ["80.0 %", "79.0 %", "75.0 %"]
    assert rows[-1]["cells"] == ["1; 40 steps", "26", "1.4 × 10⁵; 5.0 × 10⁶ steps"]
    assert len(rows) <= 5


def test_what_was_not_measured_has_no_row():
    assert five_numbers(sample_record(results={})) == (["before (θ0)", "immunized"], [])
    models, rows = five_numbers(sample_record(results={"rir": {"immunized": rir_report(bound="lower")}}))
    assert models == ["before (θ0)", "immunized"]
    assert [row["cells"] for row in rows] == [["1", "≥ 1.4 × 10⁵"]]
