"""Claims beside what was measured: what is the same holds, and every other figure is seen."""

from __future__ import annotations

import copy
import functools
import math

import pytest
from samples import sample_record
from tables import changed, leaves

from hf_immunize.release.claims import SHARE, accuracy_tolerance, claim_of, compare_results

MODELS = {"initial", "immunized", "control"}


@functools.cache
def _results():
    found = copy.deepcopy(sample_record().results)
    for report in found["rir"].values():
        for name in ("rir", "rir_i", "rir_ii"):
            report[name]["spread"] = report[name]["mean"] / 4
    return {name: one for name, one in found.items() if name != "attacks"}


def results():
    return copy.deepcopy(_results())


def wrong(claimed, measured=None, models=MODELS):
    return [one for one in compare_results(claimed, measured or results(), models) if one.status != "holds"]


def test_the_same_results_hold():
    assert not wrong(results())


FIGURES = [path for path, _ in leaves(results()) if path[0] != "spectra"]


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: ".".join(map(str, path)))
def test_every_changed_figure_is_seen(path):
    value = dict(leaves(results()))[path]
    for other in (value * 3 + 1, -value - 1):
        found = wrong(changed(results(), path, other))
        assert found
        # A protocol that is another one leaves nothing to compare with; anything else differs.
        assert path[2:3] == ("protocol",) or any(one.status == "differs" for one in found)


def test_a_curve_that_was_moved_is_seen():
    for path in (("spectra", "immunized_harmful", 5), ("spectra", "initial_primary", 12)):
        assert wrong(changed(results(), path, dict(leaves(results()))[path] * 3))


@pytest.mark.parametrize("accuracy", [0.02, 0.5, 0.9, 0.968])
def test_the_tolerance_of_an_accuracy_is_half_its_standard_error(accuracy):
    n = 10_000
    error = math.sqrt(accuracy * (1 - accuracy) / n)
    assert accuracy_tolerance(accuracy, n) == pytest.approx(SHARE * error)
    assert claim_of("it", accuracy, accuracy + 0.49 * error, accuracy_tolerance(accuracy, n)).status == "holds"
    assert claim_of("it", accuracy, accuracy + 0.51 * error, accuracy_tolerance(accuracy, n)).status == "differs"
    assert accuracy_tolerance(1.0, 500) == 1 / 500


def test_the_tolerance_of_a_ratio_is_half_the_standard_error_over_its_groups():
    report = results()["rir"]["immunized"]["rir"]
    report |= {"mean": 200.0, "spread": 40.0}
    error = 40.0 / math.sqrt(20)
    for shift, wanted in ((0.49, "holds"), (0.51, "differs")):
        claimed, measured = results(), results()
        claimed["rir"]["immunized"]["rir"] = report
        measured["rir"]["immunized"]["rir"] = report | {"mean": 200.0 + shift * error}
        name = "RIR_θ0, immunized, 20 groups of 100"
        assert {one.name: one.status for one in compare_results(claimed, measured, MODELS)}[name] == wanted


@pytest.mark.parametrize(
    ("claimed", "measured", "value", "wanted"),
    [
        ("lower", "lower", 100.0, "holds"),
        ("lower", "lower", 300.0, "differs"),
        ("lower", "exact", 300.0, "holds"),
        ("lower", "exact", 30.0, "differs"),
        ("upper", "exact", 30.0, "holds"),
        ("upper", "exact", 300.0, "differs"),
        ("exact", "lower", 100.0, "differs"),
        ("lower", "undetermined", 300.0, "differs"),
    ],
)
def test_a_bound_is_compared_from_its_side(claimed, measured, value, wanted):
    ours, theirs = results(), results()
    for one, bound, mean in ((ours, claimed, 100.0), (theirs, measured, value)):
        one["rir"]["immunized"]["rir"] = {"mean": mean, "spread": 0.1, "median": 100.0, "bound": bound}
    found = next(one for one in compare_results(ours, theirs, MODELS) if one.name.startswith("RIR_θ0"))
    assert found.status == wanted
    assert bool(found.why) == (claimed != measured)


def test_what_was_not_measured_cannot_be_checked_and_counts_where_it_was_offered():
    found = list(
        compare_results(results(), {"primary_accuracy": {"immunized": 0.964}, "n_primary": 500}, {"immunized"})
    )
    by_name = {one.name: one for one in found}
    assert by_name["primary accuracy, immunized"].status == "holds"
    assert by_name["primary accuracy, initial"].status == "cannot be checked"
    assert not by_name["primary accuracy, initial"].asked
    of_rir = [one for one in found if "RIR" in one.name]
    assert {one.status for one in of_rir} == {"cannot be checked"}
    assert {one.asked for one in of_rir if "immunized" in one.name} == {True}
    assert {one.asked for one in of_rir if "control" in one.name} == {False}


def test_the_groups_of_both_tasks_are_of_the_size_that_is_claimed():
    claimed, measured = (
        changed(results(), ("rir", "immunized", "protocol", "group_size_primary"), size) for size in (9, 12)
    )
    assert [one.name for one in wrong(claimed, measured)] == ["rows and groups, immunized (group_size_primary)"]
    assert not wrong(claimed, claimed)


def test_a_spread_of_rounding_alone_is_no_figure():
    """Groups of the same rows in another order are alike up to the last digits, which another pass rounds otherwise."""
    report = results()["rir"]["immunized"]["rir"]
    claimed = changed(results(), ("rir", "immunized", "rir", "spread"), 3e-14 * report["mean"])
    measured = changed(results(), ("rir", "immunized", "rir", "spread"), 4e-14 * report["mean"])
    assert not wrong(claimed, measured)
