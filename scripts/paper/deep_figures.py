"""Figures of the deep stand-ins, from the finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from paper.deep_report import COLOURS, KINDS, kinds_run, recoveries
from paper.results import Results

__all__ = ["draw", "draw_recovery"]

#: Markers of backbones in a figure; a harmful task has its own filling.
MARKERS = ("o", "s", "^", "D", "v")
#: Where the true RIR lies from the point drawn, for bounds: text and its alignment.
ARROWS = {"lower": ("   →", "left"), "upper": ("←   ", "right"), "undetermined": ("   ?", "left")}


def draw(results: Results, backbones: Sequence[str], tasks: Sequence[str], path: Path) -> None:
    """Harmful accuracy over epochs of fitting a head, init against each method (the paper's last figure)."""
    figure = Figure(figsize=(4.2 * len(tasks), 3.2 * len(backbones)), layout="constrained")
    axes = figure.subplots(len(backbones), len(tasks), squeeze=False, sharex=True)
    for row, backbone in enumerate(backbones):
        for column, task in enumerate(tasks):
            axis = axes[row][column]
            for method, colour in COLOURS.items():
                key = f"{backbone}/{task}/{method}/0"
                if key in results and "fine_tuning" in results[key]:
                    curve = [100 * value for value in results[key]["fine_tuning"]["harmful"]]
                    style = "--" if method in ("init", "control") else "-"
                    axis.plot(range(1, len(curve) + 1), curve, style, color=colour, marker="o", ms=3, label=method)
            axis.set_title(f"{backbone}, {task}", fontsize=10)
            axis.grid(alpha=0.3)
            if column == 0:
                axis.set_ylabel("harmful accuracy (%)")
            if row == len(backbones) - 1:
                axis.set_xlabel("epochs of the harmful head")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    figure.savefig(path, dpi=120)


def draw_recovery(results: Results, attacked: Results, pairs: Sequence[tuple[str, str]], path: Path) -> None:
    """What the strongest attacker recovers over RIR, a point a model: whether RIR predicts anything."""
    kinds = kinds_run(attacked, pairs)
    if not kinds:
        return
    figure = Figure(figsize=(max(7.5, 5.25 * len(kinds)), 5.2), layout="constrained")
    axes = figure.subplots(1, len(kinds), squeeze=False, sharex=True, sharey=True)[0]
    backbones, tasks = (list(dict.fromkeys(pair[index] for pair in pairs)) for index in (0, 1))
    for axis, kind in zip(axes, kinds, strict=True):
        for (backbone, task), method, ratio, value in recoveries(results, attacked, pairs, kind):
            filled = COLOURS[method] if task == tasks[0] else "none"
            marker = MARKERS[backbones.index(backbone)]
            axis.plot(ratio["median"], value, marker, ms=8, mew=1.8, color=COLOURS[method], markerfacecolor=filled)
            if ratio["bound"] in ARROWS:
                arrow, side = ARROWS[ratio["bound"]]
                axis.text(ratio["median"], value, arrow, ha=side, va="center", fontsize=9, color=COLOURS[method])
        axis.axhline(1, color="black", linewidth=1, linestyle="--")
        axis.axhline(0, color="black", linewidth=1, linestyle=":")
        axis.set_xscale("log")
        axis.set_xlabel("RIR, median over groups (an arrow: a bound)")
        axis.set_title(f"strongest {KINDS[kind]}", fontsize=11)
        axis.margins(x=0.1)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("recovery (0: random weights, 1: θ0)")
    entries = [(colour, "o", colour, method) for method, colour in COLOURS.items() if method != "init"]
    entries += [("black", MARKERS[index], "black", backbone) for index, backbone in enumerate(backbones)]
    entries += [("black", "o", "black" if task == tasks[0] else "none", task) for task in tasks]
    handles = [
        Line2D([], [], linestyle="none", color=colour, marker=marker, markerfacecolor=filled, label=label)
        for colour, marker, filled, label in entries
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=6, fontsize=8.5, frameon=False)
    figure.savefig(path, dpi=120)
