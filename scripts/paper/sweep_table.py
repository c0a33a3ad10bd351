"""The table of a sweep of λ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hf_immunize.spectra.ratio import SIGN

__all__ = ["CONTROL", "table"]

#: What the control is known by among the cells.
CONTROL = "control"


def table(rows: dict[str, dict[str, Any]], grid: Sequence[tuple[float, float]], max_drop: float) -> str:
    """Markdown: a line a cell, in the order of the grid, the control before them."""
    control = rows[CONTROL]
    benign = "benign_accuracy" in control
    heads = ["λ_P", "λ_H", "primary accuracy", "against the control", "RIR", "(ii)", "strongest head, harmful task"]
    heads += ["recovery", *(["benign task (against the control)"] if benign else []), f"costs ≤ {max_drop:g} points"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    keys = [("0", "0", CONTROL), *((f"{one:g}", f"{two:g}", f"{one:g}|{two:g}") for one, two in grid)]
    for primary, harmful, key in keys:
        row = rows.get(key)
        if row is None or "stopped" in row:
            rest = ["not run" if row is None else row["stopped"], *[""] * (len(heads) - 3)]
            lines.append(f"| {' | '.join([primary, harmful, *rest])} |")
            continue
        change = 100 * (row["primary_accuracy"] - control["primary_accuracy"])
        cells = [f"{100 * row['primary_accuracy']:.1f} %", "" if key == CONTROL else f"{change + 0.0:+.1f}"]
        cells += [_ratio(row["rir"][name]) for name in ("rir", "rir_ii")]
        cells += [_head(row.get("immunized_strongest")), _recovery(row.get("recovery"))]
        if benign:
            points = 100 * (row["benign_accuracy"] - control["benign_accuracy"])
            against = "" if key == CONTROL else f" ({points + 0.0:+.1f})"
            cells.append(f"{100 * row['benign_accuracy']:.1f} %{against}")
        # A point is a point, whatever binary fractions make of it.
        cells.append("" if key == CONTROL else "yes" if change >= -max_drop - 1e-9 else "no")
        lines.append(f"| {' | '.join([primary, harmful, *cells])} |")
    before = f"θ0: primary accuracy {100 * control['initial_primary_accuracy']:.1f} %"
    if "initial_strongest" in control:
        before += f", strongest head on the harmful task {_head(control['initial_strongest'])}"
    return "\n".join([f"{before}. λ = 0 is the control.", "", *lines])


def _ratio(values: dict[str, Any]) -> str:
    return f"{SIGN[values['bound']]}{values['mean']:.3g}"


def _head(strongest: dict[str, Any] | None) -> str:
    return "–" if strongest is None else f"{100 * strongest['accuracy']:.1f} % ({strongest['attacker']})"


def _recovery(recovery: dict[str, Any] | None) -> str:
    return "–" if recovery is None or recovery["value"] is None else f"{recovery['value']:.2f}"
