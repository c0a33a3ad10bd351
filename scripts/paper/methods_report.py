"""Tables and figures of the comparison of methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from paper.cases import CASES
from paper.results import Results

from hf_immunize.spectra.ratio import SIGN

__all__ = ["draw", "report"]

#: What an attacker has anyway; the public weights are shown beside, since they are the larger where there are any.
CEILINGS = ("random", "primary_only")
#: In every figure a method has the marker and the colour of its place here.
DRAWN = (
    "initial",
    "control",
    "condition",
    "simulated_attackers",
    "ridge",
    "r_well_only",
    "r_ill_only",
    "imma",
    "purge",
    "lto",
    "rep_noise",
    "opt_kappa",
    "opt_log_kappa",
    "condition_raw",
    "simulated_attackers:0.1",
    "simulated_attackers:0.3",
    "simulated_attackers:well",
    "simulated_attackers:short",
)
# No method has the colour of another; markers tell them apart in grey too.
MARKERS = ("o", "^", "D", "v", "P", "X", "*")
#: The objective whose price is drawn as a curve: under its name the defaults, behind a colon other weights λ_H.
PRICED = "simulated_attackers"
KINDS = {"probe": "heads", "fine-tuning": "fine-tuning"}


def report(results: Results) -> str:
    """A table a case, in Markdown; accuracies in per cent, uplift in brackets, in points."""
    parts = [
        "Accuracy of the strongest attacker on the harmful task in per cent; in brackets the points that it has more "
        "than on the better of random weights and a network of the primary task alone, at the same budget. Columns of "
        "fine-tuning: after 10 / 30 / 100 / 300 steps, 100 images a class. Benign: the strongest head, and "
        "fine-tuning after 100 steps. Several seeds: means."
    ]
    for case, words in CASES.items():
        rows = of_case(results, case)
        if rows:
            parts.append(f"### {words}\n\n{table(rows)}")
    return "\n\n".join(parts)


def of_case(results: Results, case: str) -> dict[str, list[dict[str, Any]]]:
    """Model → its rows, one a seed."""
    found: dict[str, list[dict[str, Any]]] = {}
    for key, row in results.values["rows"].items():
        if key.split("/")[0] == case:
            found.setdefault(key.split("/")[1], []).append(row)
    return found


def table(rows: dict[str, list[dict[str, Any]]]) -> str:
    """Of one case."""
    lines = [
        "| model | primary | RIR | (ii) | strongest head | fine-tuned | benign head | benign fine-tuned | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, own in rows.items():
        done = [one for one in own if "stopped" not in one]
        if not done:
            lines.append(f"| {name} | stopped: {own[0]['stopped']} | | | | | | | |")
            continue
        fine = " / ".join(cell(rows, done, name, "fine-tuning", step) for step in steps_of(done, "fine-tuning"))
        at = {kind: judged_at(done, kind) for kind in KINDS}
        head = "" if at["probe"] is None else cell(rows, done, name, "probe", at["probe"])
        benign = [
            "–" if step is None else f"{100 * accuracy(done, 'benign', kind, step):.1f}" for kind, step in at.items()
        ]
        kept = [one["primary_accuracy"] for one in done if "primary_accuracy" in one]
        primary = f"{100 * float(np.mean(kept)):.1f}" if kept else "–"
        ratios = [ratio(done, "rir"), ratio(done, "rir_ii")]
        spent = [one["seconds"] for one in done if "rir" in one]
        seconds = f"{np.mean(spent):.0f}" if spent else "–"
        lines.append(f"| {name} | {' | '.join([primary, *ratios, head or '–', fine or '–', *benign, seconds])} |")
    searches = [
        one["harmful"]["fine-tuning"][step].get("settings")
        for own in rows.values()
        for one in own
        if "stopped" not in one
        for step in steps_of([one], "fine-tuning")
    ]
    # Rows of earlier versions do not know.
    if searches and None not in searches:
        counts = " to ".join(str(one) for one in sorted({min(searches), max(searches)}))
        lines += ["", f"Fine-tuning: the strongest of {counts} settings at each budget."]
    return "\n".join(lines)


def steps_of(done: list[dict[str, Any]], kind: str) -> list[str]:
    return list(done[0]["harmful"].get(kind, {}))


def judged_at(done: list[dict[str, Any]], kind: str) -> str | None:
    """Where one number stands for all: 100 steps of fine-tuning, the last of a head; None where it was not run."""
    steps = steps_of(done, kind)
    if kind == "fine-tuning":
        return "100" if "100" in steps else None
    return steps[-1] if steps else None


def accuracy(done: list[dict[str, Any]], task: str, kind: str, step: str) -> float:
    """Of the strongest attacker, a mean over seeds."""
    return float(np.mean([one[task][kind][step]["accuracy"] for one in done]))


def uplift(rows: dict[str, list[dict[str, Any]]], done: list[dict[str, Any]], kind: str, step: str) -> float | None:
    """Beyond the larger of the ceilings at the same budget; None where they were not measured."""
    known = [accuracy(rows[one], "harmful", kind, step) for one in CEILINGS if one in rows]
    return accuracy(done, "harmful", kind, step) - max(known) if len(known) == len(CEILINGS) else None


def cell(rows: dict[str, list[dict[str, Any]]], done: list[dict[str, Any]], name: str, kind: str, step: str) -> str:
    more = None if name in CEILINGS else uplift(rows, done, kind, step)
    told = "" if more is None else f" ({100 * more:+.1f})"
    return f"{100 * accuracy(done, 'harmful', kind, step):.1f}{told}"


def ratio(done: list[dict[str, Any]], name: str) -> str:
    """A ratio in the paper's protocol, a mean over seeds."""
    values = [one["rir"][name] for one in done if "rir" in one]
    if not values:
        return "–"
    bounds = {one["bound"] for one in values} - {"exact"}
    sign = "" if not bounds else SIGN[bounds.pop()] if len(bounds) == 1 else SIGN["undetermined"]
    return f"{sign}{np.mean([one['mean'] for one in values]):.3g}"


def draw(results: Results, folder: Path) -> None:
    """A figure a case: what is kept of the primary task against uplift, and of fine-tuning for a benign task."""
    for case, words in CASES.items():
        rows = of_case(results, case)
        if not set(CEILINGS) <= set(rows) or "initial" not in rows:
            continue
        figure = Figure(figsize=(14, 4.6), layout="constrained")
        axes = figure.subplots(1, 3)
        shown = {
            name: (done, style_of(name))
            for name in DRAWN
            if (done := [one for one in rows.get(name, []) if "stopped" not in one and "primary_accuracy" in one])
        }
        zero = float(np.mean([one["primary_accuracy"] for one in rows["initial"]]))
        for name, (done, style) in shown.items():
            kept = float(np.mean([one["primary_accuracy"] for one in done])) - zero
            for axis, kind in zip(axes, KINDS, strict=False):
                step = judged_at(done, kind)
                if step is not None and (more := uplift(rows, done, kind, step)) is not None:
                    axis.plot(100 * more, 100 * kept, ms=8, alpha=0.8, label=name, linestyle="", **style)
            price = price_of(rows, done)
            if price is not None:
                axes[2].plot(*price, ms=8, alpha=0.8, linestyle="", **style)
        curve = sorted(filter(None, (price_of(rows, done) for name, (done, _) in shown.items() if is_priced(name))))
        # Two ends alone would be a line that nobody measured.
        if len(curve) > 2:
            axes[2].plot(*zip(*curve, strict=True), color="grey", linewidth=1, zorder=0)
        for axis, title in zip(axes, [*KINDS.values(), KINDS["fine-tuning"]], strict=True):
            axis.axvline(0, color="black", linewidth=1, linestyle=":")
            axis.axhline(0, color="black", linewidth=1, linestyle=":")
            axis.set_xlabel(f"uplift of the strongest {title}, points" + (", 100 steps" if title != "heads" else ""))
            axis.margins(x=0.2, y=0.15)
            axis.grid(alpha=0.3)
        axes[0].set_ylabel("primary accuracy against θ0, points")
        axes[2].set_ylabel("benign fine-tuning against the control, points")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
        figure.suptitle(words, fontsize=11)
        figure.savefig(folder / f"{case}.png", dpi=120)


def price_of(rows: dict[str, list[dict[str, Any]]], done: list[dict[str, Any]]) -> tuple[float, float] | None:
    """Uplift of fine-tuning, and what fine-tuning for the benign task loses against the control: points, 100 steps."""
    control = [one for one in rows.get("control", []) if "stopped" not in one]
    step = judged_at(done, "fine-tuning")
    more = None if step is None or not control else uplift(rows, done, "fine-tuning", step)
    if more is None or step is None:
        return None
    lost = accuracy(done, "benign", "fine-tuning", step) - accuracy(control, "benign", "fine-tuning", step)
    return 100 * more, 100 * lost


def is_priced(name: str) -> bool:
    """Whether a row is on the curve of one objective at several weights λ_H."""
    return name in ("control", PRICED) or name.removeprefix(f"{PRICED}:").replace(".", "").isdigit()


def style_of(name: str) -> dict[str, Any]:
    """Marker and colour, the same in every figure."""
    place = DRAWN.index(name)
    # The ten strong colours first, then the ten pale ones.
    color = colormaps["tab20"](2 * (place % 10) + place // 10)
    return {"marker": "s" if place < 2 else MARKERS[place % len(MARKERS)], "color": color}
