"""The result of a run as a table for a terminal."""

from __future__ import annotations

import copy

from samples import rir_report, sample_record

from hf_immunize.release.table import table


def cells(text, label):
    """The values of a row; they stand two or more blanks apart."""
    (line,) = [line for line in text.splitlines() if line.startswith(label)]
    return [part.strip() for part in line[46:].split("  ") if part.strip()]


def test_each_model_has_a_column_and_each_figure_a_row():
    text = table(sample_record())
    assert text.splitlines()[0].split() == ["initial", "control", "immunized"]
    assert cells(text, "primary accuracy") == ["96.8 %", "97.4 %", "96.4 %"]
    assert cells(text, "RIR, 20 groups of 100") == ["1", "26 ± 0.25", "1.4e+05 ± 0.25"]
    assert cells(text, "(i) harmful, 20 groups of 100") == ["1", "690 ± 0.25", "2.1e+07 ± 0.25"]
    assert cells(text, "(ii) primary, 20 groups of 100") == ["1", "34 ± 0.25", "150 ± 0.25"]
    assert cells(text, "RIR, median of the groups") == ["1", "1", "1"]
    assert len(cells(text, "RIR, all 60 + 60 samples")) == 3


def test_columns_stand_under_each_other():
    lines = table(sample_record()).split("\n\n")[0].splitlines()
    assert {len(line) for line in lines} == {46 + 3 * 22}


def test_bounds_keep_their_sign():
    results = copy.deepcopy(sample_record().results)
    results["rir"]["immunized"] = rir_report(bound="lower")
    assert cells(table(sample_record(results=results)), "RIR, 20 groups of 100")[-1] == "≥ 1.4e+05 ± 0.25"


def test_what_was_not_measured_has_no_place():
    results = copy.deepcopy(sample_record().results)
    del results["attacks"], results["rir"]["control"], results["primary_accuracy"]["control"]
    text = table(sample_record(results=results))
    assert text.splitlines()[0].split() == ["initial", "immunized"]
    assert "Harmful accuracy" not in text
    assert "Harmful accuracy" in table(sample_record())
