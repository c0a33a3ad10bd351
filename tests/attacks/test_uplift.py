"""Uplift: what a release adds to the largest of what an attacker has anyway."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from samples import ACCURACY, attack_report, outcomes

from hf_immunize.attacks import ATTACKERS, AttackReport, Budgets
from hf_immunize.attacks.judging import Outcome
from hf_immunize.attacks.report import CEILINGS
from hf_immunize.attacks.resampling import Resampled
from hf_immunize.attacks.uplift import most_uplift, uplift_over_ceilings

#: Heads whose largest ceiling is the primary task alone at first and public weights later.
PLANTED = {
    "ridge regression": {
        "initial": (0.5, 0.9),
        "immunized": (0.3, 0.7),
        "scratch": (0.1, 0.2),
        "primary_only": (0.25, 0.4),
        "public": (0.2, 0.6),
    },
    "L-BFGS": {
        "initial": (0.6, 0.8),
        "immunized": (0.2, 0.75),
        "scratch": (0.1, 0.5),
        "primary_only": (0.2, 0.3),
        "public": (0.1, 0.3),
    },
}
BUDGETS = Budgets((None,), (10, 300), seeds=(0, 1))


def planted(m=400):
    """Each attacker on each model with a share of right rows drawn by a seed of its own, two fits each."""
    found = {}
    generator = torch.Generator().manual_seed(0)
    for attacker, by_model in PLANTED.items():
        for model, shares in by_model.items():
            for step, share in zip((10, 300), shares, strict=True):
                found[attacker, model, None, step] = [
                    Outcome("", 0, torch.rand(m, generator=generator) < share) for _ in range(2)
                ]
    return found


def test_uplift_is_the_accuracy_less_the_largest_ceiling_of_the_same_budget():
    found = planted()
    report = uplift_over_ceilings(Resampled(found), [ATTACKERS[name] for name in PLANTED], BUDGETS)
    assert report["ceilings"] == ["scratch", "primary_only", "public"]
    mean = {key: np.mean([one.correct.numpy() for one in fits]) for key, fits in found.items()}
    for step, ceiling in ((10, "primary_only"), (300, "public")):

        def strongest(model, step=step):
            return max(mean[name, model, None, step] for name in PLANTED)

        level = max(strongest(name) for name in CEILINGS)
        assert level == strongest(ceiling)
        for model in ("initial", "immunized"):
            cell = report["worst_case"]["probe"][model]["all"][str(step)]
            assert cell["value"] == pytest.approx(strongest(model) - level, abs=1e-12)
            assert cell["ceiling"] == ceiling
        for name in PLANTED:
            cell = report["attackers"][name]["all"][str(step)]
            assert cell["value"] == pytest.approx(mean[name, "immunized", None, step] - level, abs=1e-12)


def test_the_interval_is_of_differences_within_the_same_resamples():
    """By NumPy, over the same draw of test rows: the strongest attacker less the largest ceiling of each resample."""
    m = 400
    found = planted(m)
    rows = torch.randint(m, (1000, m), generator=torch.Generator().manual_seed(0)).numpy()

    def resampled(model, step):
        each = [
            np.mean([one.correct.numpy().astype(float) for one in found[name, model, None, step]], 0)[rows].mean(1)
            for name in PLANTED
        ]
        return np.max(each, 0)

    report = uplift_over_ceilings(Resampled(found), [ATTACKERS[name] for name in PLANTED], BUDGETS)
    for step in (10, 300):
        differences = resampled("immunized", step) - np.max([resampled(name, step) for name in CEILINGS], 0)
        cell = report["worst_case"]["probe"]["immunized"]["all"][str(step)]
        np.testing.assert_allclose([cell["low"], cell["high"]], np.quantile(differences, [0.025, 0.975]), atol=1e-12)


def test_without_any_ceiling_there_is_no_uplift():
    bare = {name: {model: one[model] for model in ("initial", "immunized")} for name, one in ACCURACY.items()}
    report = attack_report(bare)
    assert report.uplift == {}
    assert "The release gives an attacker" not in report.verdict["text"]


def test_a_report_of_before_there_was_uplift_still_loads():
    old = {name: value for name, value in attack_report().to_dict().items() if name not in ("uplift", "trials")}
    loaded = AttackReport.from_dict(old)
    assert loaded.uplift == {}
    assert "uplift by" not in str(loaded)
    assert "uplift by probe, points after 10 / 300 steps: initial" in str(attack_report())


def test_the_budget_of_the_most_uplift_is_named():
    cells = {"10": {"3": {"value": -0.1}, "30": {"value": 0.2}}, "all": {"3": {"value": 0.1}, "30": {"value": -0.3}}}
    assert most_uplift(cells) == {"samples": "10", "steps": "30", "value": 0.2}


def test_ceilings_are_no_models_of_a_release():
    accuracy = {name: one | {"public": 0.7} for name, one in ACCURACY.items()}
    report = attack_report(accuracy)
    assert list(report.uplift["worst_case"]["probe"]) == ["initial", "control", "immunized"]
    assert outcomes(accuracy).keys() >= {("ridge regression", "public", None, 10)}
    assert report.models[-1] == "public"
