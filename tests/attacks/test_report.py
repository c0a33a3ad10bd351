"""The report of attacks: what it holds, and that it survives a file."""

from __future__ import annotations

import json
import math

import pytest
from samples import attack_report
from tiny import Images

from hf_immunize import run_attacks
from hf_immunize.attacks import AttackReport, Budgets
from hf_immunize.attacks.report import largest


def test_the_interval_is_that_of_a_share():
    cell = largest(attack_report().attackers["Adam, best rate"]["accuracy"]["immunized"])
    error = math.sqrt(0.684 * 0.316 / 500)
    assert cell["mean"] == pytest.approx(0.684)
    assert cell["low"] == pytest.approx(0.684 - 1.96 * error, abs=0.01)
    assert cell["high"] == pytest.approx(0.684 + 1.96 * error, abs=0.01)


def test_a_report_survives_a_record_that_sorts_its_keys(two_models):
    """As text "10" < "100" < "30" and "control" < "initial": the last budget must stay the largest."""
    report = run_attacks(
        *two_models,
        Images(60, seed=5),
        Images(30, seed=5),
        control=two_models[1],
        attackers=["ridge regression", "Adam, best rate", "last block"],
        budgets=Budgets((5, 10, None), (9, 10), (4,), (3, 20, 100), seeds=(0,)),
        scratch=False,
    )
    sorted_by_text = json.loads(json.dumps(report.to_dict(), sort_keys=True))
    again = AttackReport.from_dict(sorted_by_text)
    assert again == report
    assert str(again) == str(report)
    for name in ("attackers", "recovery", "slowdown", "worst_case", "cost_ratio", "exact_steps"):
        assert list(getattr(again, name)) == list(getattr(report, name))
    assert [row["steps"] for row in again.rows()] == [10, 10, 100]
    assert list(again.worst_case["fine-tuning"]["immunized"]["4"]) == ["3", "20", "100"]
