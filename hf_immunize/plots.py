"""The figures of a card, drawn from the record alone: the two spectra and the probe curves."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from hf_immunize.record import ImmunizationRecord

__all__ = ["FIGURES_FOLDER", "plot_probe_curves", "plot_spectra", "save_figures"]

FIGURES_FOLDER = "figures"
SPECTRA_NAME = "spectra.png"
PROBES_NAME = "probe_curves.png"

# Hues of the Okabe-Ito palette, which the common forms of colour blindness keep apart; dashes and marks repeat them.
_STYLES: dict[str, dict[str, Any]] = {
    "initial": {"label": "θ0 (initial)", "color": "#0072B2", "linestyle": "--", "marker": "o"},
    "control": {"label": "control (λ = 0)", "color": "#6B6B6B", "linestyle": "-.", "marker": "s"},
    "immunized": {"label": "immunized", "color": "#D55E00", "linestyle": "-", "marker": "D"},
}
_INK = "#222222"
_GRID = "#DDDDDD"
_MAX_COLUMNS = 3


def plot_spectra(record: ImmunizationRecord) -> Figure | None:
    """Eigenvalues of the harmful and of the primary feature Hessian, θ0 beside the immunized model.

    Returns:
        one panel a task, relative to the largest eigenvalue, on a logarithmic scale; None where the record holds no
        spectra.
    """
    spectra = record.results.get("spectra") or {}
    tasks = [
        task for task in ("harmful", "primary") if spectra.get(f"initial_{task}") or spectra.get(f"immunized_{task}")
    ]
    if not tasks:
        return None
    ranks = spectra.get("ranks") or {}
    figure = _figure(5.2 * len(tasks), 4.0)
    axes = figure.subplots(1, len(tasks), squeeze=False, sharey=True)[0]
    for axis, task in zip(axes, tasks, strict=True):
        for model in ("initial", "immunized"):
            name = f"{model}_{task}"
            values = [value for value in spectra.get(name) or [] if value > 0]
            if not values:
                continue
            index = _indices(len(values), ranks.get(name))
            style = {key: value for key, value in _STYLES[model].items() if key != "marker"}
            style["label"] += f", rank {ranks[name]}" if name in ranks else ""
            axis.plot(index, values, linewidth=2, **style)
        axis.set_yscale("log")
        axis.set_title(_wrapped(f"{task} task: {record.title(task)}"), fontsize=10, color=_INK)
        axis.set_xlabel("index of the eigenvalue")
        _finish(axis)
    axes[0].set_ylabel("eigenvalue / largest eigenvalue")
    return figure


def plot_probe_curves(record: ImmunizationRecord) -> Figure | None:
    """Harmful accuracy over the steps of each attacker on θ0, control and immunized features.

    Returns:
        one panel an attacker with the chance level as a line; None where the record holds no attacks.
    """
    attacks = record.results.get("attacks") or {}
    attackers = {name: curves for name, curves in (attacks.get("attackers") or {}).items() if any(curves.values())}
    if not attackers:
        return None
    columns = min(len(attackers), 2 if len(attackers) == 4 else _MAX_COLUMNS)
    rows = math.ceil(len(attackers) / columns)
    figure = _figure(4.2 * columns, 3.2 * rows + 0.5)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True, sharex=True)
    panels = list(grid.flat)
    for axis, (name, curves) in zip(panels, attackers.items(), strict=False):
        for model in ("initial", "control", "immunized"):
            points = sorted((int(step), 100 * accuracy) for step, accuracy in (curves.get(model) or {}).items())
            if points:
                axis.plot(*zip(*points, strict=True), linewidth=2, markersize=5, **_STYLES[model])
        if attacks.get("chance") is not None:
            axis.axhline(100 * attacks["chance"], color=_INK, linewidth=1, linestyle=":", label="chance")
        steps = sorted({int(step) for one in curves.values() for step in one or {}})
        if steps[0] > 0:
            axis.set_xscale("log")
        axis.set_xticks(steps, [str(step) for step in steps])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_ylim(0, 103)
        axis.set_title(name, fontsize=11, color=_INK)
        _finish(axis, legend=False)
    for axis in panels[len(attackers) :]:
        axis.set_visible(False)
    for axis in panels[max(0, len(attackers) - columns) : len(attackers)]:
        axis.tick_params(labelbottom=True)
        axis.set_xlabel("steps of the attacker")
    for row in grid:
        row[0].set_ylabel("harmful accuracy (%)")
    labelled = {label: line for axis in panels for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    legend = figure.legend(
        labelled.values(), labelled.keys(), loc="outside upper center", ncols=len(labelled), frameon=False, fontsize=10
    )
    for text in legend.get_texts():
        text.set_color(_INK)
    return figure


def save_figures(record: ImmunizationRecord, folder: str | Path) -> list[Path]:
    """Draws what the record has results for into ``folder/figures`` and returns the paths."""
    written = []
    for name, figure in ((SPECTRA_NAME, plot_spectra(record)), (PROBES_NAME, plot_probe_curves(record))):
        if figure is None:
            continue
        path = Path(folder) / FIGURES_FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=130, facecolor="white", metadata={"Software": None})
        written.append(path)
    return written


def _figure(width: float, height: float) -> Figure:
    # A Figure with its own canvas never passes pyplot, so the caller's backend and open figures stay as they are.
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _finish(axis: Axes, legend: bool = True) -> None:
    axis.set_facecolor("white")
    axis.grid(True, color=_GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        axis.spines[side].set_color(_INK)
    axis.tick_params(colors=_INK, labelsize=9)
    axis.xaxis.label.set_color(_INK)
    axis.yaxis.label.set_color(_INK)
    if legend and axis.get_legend_handles_labels()[0]:
        for text in axis.legend(frameon=False, fontsize=9).get_texts():
            text.set_color(_INK)


def _indices(count: int, rank: int | None) -> list[float]:
    """Positions of ``count`` values taken at even steps out of ``rank``."""
    if rank is None or rank <= count or count == 1:
        return [float(index) for index in range(1, count + 1)]
    step = (rank - 1) / (count - 1)
    return [1 + round(index * step) for index in range(count)]


def _wrapped(title: str) -> str:
    return "\n".join(textwrap.wrap(title, width=64, max_lines=3, placeholder=" …"))
