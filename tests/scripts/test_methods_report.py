"""The table of methods: uplift over the larger ceiling, and what stands where a kind of attackers was not run."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TASKS = ("harmful", "benign")


@pytest.fixture
def methods_report(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from paper import methods_report

    return methods_report


def row(fine_tuned, head=None, primary=None):
    kinds = {"fine-tuning": {"30": {"accuracy": 0.1}, "100": {"accuracy": fine_tuned}}}
    if head is not None:
        kinds["probe"] = {"1000": {"accuracy": head}}
    found = {"harmful": kinds, "benign": kinds}
    if primary is not None:
        ratio = {"mean": 12.0, "bound": "exact"}
        found |= {"primary_accuracy": primary, "seconds": 7.0, "rir": {"rir": ratio, "rir_ii": ratio}}
    return found


def test_uplift_is_counted_from_the_larger_ceiling(methods_report):
    rows = {"random": [row(0.5, 0.3)], "primary_only": [row(0.4, 0.6)], "one": [row(0.7, 0.5, 0.9), row(0.8, 0.5, 0.9)]}
    assert methods_report.uplift(rows, rows["one"], "fine-tuning", "100") == pytest.approx(0.75 - 0.5)
    assert methods_report.uplift(rows, rows["one"], "probe", "1000") == pytest.approx(0.5 - 0.6)
    del rows["random"]
    assert methods_report.uplift(rows, rows["one"], "fine-tuning", "100") is None


def test_a_kind_of_attackers_that_was_not_run_is_a_dash(methods_report):
    rows = {"random": [row(0.5)], "primary_only": [row(0.4)], "one": [row(0.7, primary=0.9)]}
    line = methods_report.table(rows).splitlines()[-1]
    assert line == "| one | 90.0 | 12 | 12 | – | 10.0 (+0.0) / 70.0 (+20.0) | – | 70.0 | 7 |"


def test_the_length_of_a_search_is_said_where_every_row_knows_it(methods_report):
    rows = {"one": [row(0.7, primary=0.9)], "two": [row(0.7, primary=0.9)]}
    for number, own in enumerate(rows.values()):
        for step in own[0]["harmful"]["fine-tuning"].values():
            step["settings"] = 24 + number
    assert methods_report.table(rows).endswith("\nFine-tuning: the strongest of 24 to 25 settings at each budget.")
    del rows["two"][0]["harmful"]["fine-tuning"]["100"]["settings"]
    assert "settings" not in methods_report.table(rows)


def test_a_method_that_stopped_says_why(methods_report):
    assert "stopped: no finite loss" in methods_report.table({"one": [{"stopped": "no finite loss"}]})


def test_a_price_is_benign_fine_tuning_against_the_control(methods_report):
    def judged(harmful, benign):
        kinds = {
            task: {"fine-tuning": {"100": {"accuracy": one}}}
            for task, one in zip(TASKS, (harmful, benign), strict=True)
        }
        return [kinds | {"primary_accuracy": 0.9}]

    rows = {"random": judged(0.5, 0.1), "primary_only": judged(0.4, 0.1), "control": judged(0.8, 0.7)}
    assert methods_report.price_of(rows, judged(0.45, 0.62)) == pytest.approx((-5, -8))
    assert methods_report.price_of(rows, rows["control"]) == pytest.approx((30, 0))
    del rows["control"]
    assert methods_report.price_of(rows, judged(0.45, 0.62)) is None


def test_a_curve_is_of_one_objective_at_several_weights(methods_report):
    names = ("control", "simulated_attackers", "simulated_attackers:0.3", "simulated_attackers:well", "condition")
    assert [methods_report.is_priced(one) for one in names] == [True, True, True, False, False]


def test_every_method_has_a_style_of_its_own(methods_report):
    import compare_methods

    assert {"initial", *compare_methods.METHODS} == set(methods_report.DRAWN)
    styles = [methods_report.style_of(name)["color"] for name in methods_report.DRAWN]
    assert len(set(styles)) == len(styles)


def test_the_table_that_stands_in_the_project_is_that_of_its_values(methods_report):
    folder = ROOT / "model_cards" / "methods"
    results = methods_report.Results(folder / "methods.json", "")
    assert methods_report.report(results) + "\n" == (folder / "methods.md").read_text(encoding="utf-8")
