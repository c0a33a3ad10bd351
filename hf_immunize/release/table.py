"""The result of a run as one readable table for a terminal."""

from __future__ import annotations

from typing import Any

from hf_immunize.release.record import ImmunizationRecord
from hf_immunize.spectra.ratio import SIGN

__all__ = ["table"]


def table(record: ImmunizationRecord) -> str:
    """Primary accuracy, RIR in both protocols and what the attackers recover, a column a model."""
    results = record.results
    models = [name for name in ("initial", "control", "immunized") if name in results["primary_accuracy"]]
    lines = ["".ljust(46) + "".join(name.rjust(22) for name in models)]

    def row(label: str, cells: dict[str, str]) -> None:
        lines.append(
            label.ljust(46) + "".join(cells.get(name, "1" if name == "initial" else "").rjust(22) for name in models)
        )

    row("primary accuracy", {name: f"{100 * results['primary_accuracy'][name]:.1f} %" for name in models})
    reports, labels = results["rir"], {"rir": "RIR", "rir_i": "(i) harmful", "rir_ii": "(ii) primary"}
    first = next(iter(reports.values()))
    groups, size = first["protocol"]["groups"], first["protocol"]["group_size"]
    for key, label in labels.items():
        row(f"{label}, {groups} groups of {size}", {name: _ratio(report[key]) for name, report in reports.items()})
    row("RIR, median of the groups", {name: f"{report['rir']['median']:.3g}" for name, report in reports.items()})
    for key, label in labels.items():
        whole = {name: report["all_samples"] for name, report in reports.items()}
        row(
            f"{label}, all {first['n_harmful']} + {first['n_primary']} samples",
            {name: f"{SIGN[one[key + '_bound']]}{one[key]:.3g}" for name, one in whole.items()},
        )
    text = "\n".join(lines)
    return text if record.attack_report is None else f"{text}\n\nHarmful accuracy\n{record.attack_report}"


def _ratio(values: dict[str, Any]) -> str:
    return f"{SIGN[values['bound']]}{values['mean']:.3g} ± {values['spread']:.2g}"
