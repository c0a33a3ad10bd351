"""The one measuring: what it gives is what its parts give, and nobody is judged on what they saw."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from planted import QUICK
from samples import features
from tiny import Images, TinyNet

from hf_immunize import evaluate_immunization
from hf_immunize.metrics.report import Protocol
from hf_immunize.models.forward import unwrap
from hf_immunize.release import measure as module
from hf_immunize.release.measure import measure, spectra_results
from hf_immunize.spectra.spectrum import spectrum

PROTOCOL = Protocol(groups=4, group_size=12)


@pytest.fixture
def models():
    """Two models that differ from the first layer on, so that each of them runs whole."""
    torch.manual_seed(1)
    initial = TinyNet().eval()
    immunized = copy.deepcopy(initial)
    with torch.no_grad():
        for parameter in immunized.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return {"initial": initial, "immunized": immunized}


def data(**more):
    return {
        "primary": (Images(40, seed=1), Images(30, seed=2)),
        "harmful": (Images(40, seed=3), Images(24, seed=4)),
    } | more


def test_results_are_those_of_evaluate_immunization(models):
    sets = data()
    results = measure(models, sets, attackers=None, protocol=PROTOCOL)
    sides = [sets[task][1] for task in ("primary", "harmful")]
    found = results["rir"]["immunized"]
    for float64, within in ((None, 1e-6), (True, 1e-4)):
        report = evaluate_immunization(
            models["immunized"], models["initial"], *sides, protocol=PROTOCOL, float64=float64
        )
        wanted = report.to_dict()
        for name in ("rir", "rir_i", "rir_ii"):
            assert found[name]["mean"] == pytest.approx(wanted[name]["mean"], rel=within)
            assert found[name]["spread"] == pytest.approx(wanted[name]["spread"], rel=10 * within)
            assert found["all_samples"][name] == pytest.approx(wanted["all_samples"][name], rel=within)
    assert (found["n_harmful"], found["n_primary"]) == (24, 30)
    assert results["primary_accuracy"] == pytest.approx(report.primary_accuracy)
    for name, model in models.items():
        images, labels = sets["primary"][1].x, sets["primary"][1].y
        share = (unwrap(model)(images).argmax(1) == labels).double().mean().item()
        assert results["primary_accuracy"][name] == pytest.approx(share)
    assert results.keys() == {"primary_accuracy", "rir", "spectra"}


def test_images_run_once_through_what_is_shared_and_in_float32_through_the_rest(two_models):
    model, base = two_models
    seen = []
    for name, one in (("immunized", model), ("initial", base)):
        for part in ("stem", "widen"):
            one.get_submodule(part).register_forward_hook(
                lambda _, args, __, of=(name, part): seen.append((*of, len(args[0]), args[0].dtype))
            )
    # Few rows of few features have small values that float32 rounds: then there is a second pass.
    sets = {"primary": (None, Images(300, seed=2)), "harmful": (None, Images(240, seed=4))}
    protocol = Protocol(groups=4, group_size=200)
    measure({"immunized": model, "initial": base}, sets, attackers=None, protocol=protocol)
    rows = Counter()
    for name, part, n, dtype in seen:
        rows[name, part] += n
        assert dtype == torch.float32
    # 300 + 240 images, and a few to split the models, to find their heads and to see that features repeat.
    assert rows["immunized", "stem"] + rows["initial", "stem"] < 540 + 60
    assert all(540 <= rows[name, "widen"] < 540 + 60 for name in ("immunized", "initial"))


def test_a_control_is_measured_where_there_is_one(models):
    control = copy.deepcopy(models["initial"])
    results = measure(models | {"control": control}, data(), attackers=None, protocol=PROTOCOL)
    assert results["rir"]["control"]["rir"]["mean"] == pytest.approx(1.0, rel=1e-6)
    assert results["primary_accuracy"].keys() == {"initial", "immunized", "control"}


def test_a_benign_task_may_be_left_out(models):
    given = {"attackers": "ridge regression", "budgets": QUICK, "protocol": PROTOCOL}
    without = measure(models, data(), **given)["attacks"]
    beside = measure(models, data(benign=(Images(40, seed=5), Images(24, seed=6))), **given)["attacks"]
    assert not without["selectivity"]
    assert beside["selectivity"]
    assert without["attackers"]["ridge regression"]["accuracy"] == beside["attackers"]["ridge regression"]["accuracy"]


@pytest.mark.parametrize("task", ["primary", "harmful", "benign"])
def test_nobody_is_judged_on_the_rows_that_they_were_fitted_to(models, task):
    rows = Images(30, seed=7)
    with pytest.raises(ValueError, match=f"The {task} data to train on and to measure on are the same rows"):
        measure(models, data(**{task: (rows, rows)}), attackers=None, protocol=PROTOCOL)


def test_without_harmful_labels_attackers_are_left_out(models):
    unlabelled = (Images(40, seed=3, labels=False), Images(24, seed=4, labels=False))
    assert "attacks" not in measure(models, data(harmful=unlabelled), budgets=QUICK, protocol=PROTOCOL)


def test_attackers_are_given_no_more_than_so_many_rows(models, monkeypatch):
    monkeypatch.setattr(module, "MOST_ATTACKED", 20)
    results = measure(models, data(), attackers="ridge regression", budgets=QUICK, protocol=PROTOCOL)
    assert (results["attacks"]["n_train"], results["attacks"]["n_test"]) == (20, 20)
    # RIR is still of all of them.
    assert results["rir"]["immunized"]["n_harmful"] == 24


def test_spectra_descend_from_one_and_keep_both_ends():
    long, short = spectrum(features(900, 700, 2, 0)), spectrum(features(9, 5, 1, 0))
    result = spectra_results(initial_harmful=long, immunized_harmful=short)
    values = result["initial_harmful"]
    assert len(values) == 512
    assert values[0] == 1.0
    assert values[-1] == pytest.approx(float(long.eigenvalues[0] / long.eigenvalues[-1]), rel=1e-4)
    assert values == sorted(values, reverse=True)
    assert result["ranks"] == {"initial_harmful": 700, "immunized_harmful": 5}
    assert len(result["immunized_harmful"]) == 5
