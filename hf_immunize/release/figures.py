"""The figures of a card, drawn from the record alone: the two spectra and the attackers' curves."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_immunize.attacks.report import AttackReport
from hf_immunize.release.claims import Claim
from hf_immunize.release.record import ImmunizationRecord

if TYPE_CHECKING:
    # Where something is drawn it is imported: it takes a second, and most commands draw nothing.
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "ATTACKS_NAME",
    "FIGURES_FOLDER",
    "SPECTRA_NAME",
    "TRIALS_NAME",
    "VERIFICATION_FIGURE",
    "plot_attacks",
    "plot_spectra",
    "plot_trials",
    "plot_verification",
    "save_figure",
    "save_figures",
    "searched",
]

FIGURES_FOLDER = "figures"
SPECTRA_NAME = "spectra.png"
ATTACKS_NAME = "attacks.png"
TRIALS_NAME = "trials.png"
VERIFICATION_FIGURE = "verification.png"

# Hues of the Okabe-Ito palette, which the common forms of colour blindness keep apart; dashes and marks repeat them.
_STYLES: dict[str, dict[str, Any]] = {
    "initial": {"label": "θ0 (initial)", "color": "#0072B2", "linestyle": "--", "marker": "o"},
    "control": {"label": "control (λ = 0)", "color": "#6B6B6B", "linestyle": "-.", "marker": "s"},
    "immunized": {"label": "immunized", "color": "#D55E00", "linestyle": "-", "marker": "D"},
    "scratch": {"label": "random weights", "color": "#009E73", "linestyle": ":", "marker": "^"},
    "primary_only": {"label": "primary task alone", "color": "#CC79A7", "linestyle": (0, (5, 1, 1, 1)), "marker": "v"},
    "public": {"label": "public weights", "color": "#E69F00", "linestyle": (0, (8, 2)), "marker": "P"},
}
#: Models whose single attackers are not drawn: six models would be a thicket.
_ANYWAY = ("primary_only", "public")
_INK = "#222222"
_GRID = "#DDDDDD"
#: Tolerances from a claim beyond which a figure of a verification shows no more.
FURTHEST = 4.0


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


def plot_attacks(attacks: AttackReport | None) -> Figure | None:
    """Harmful accuracy over the attackers' steps at the largest budget of samples, and below it the uplift.

    Returns:
        a column a kind of attacker. Above, every attacker on a released model as a thin line, the worst case of each
        model in bold with its interval, chance as a line; below, where ceilings were measured, points beyond the
        largest of them. None without a report.
    """
    if attacks is None:
        return None
    from matplotlib.ticker import NullFormatter, NullLocator

    kinds, rows = list(attacks.worst_case), 2 if attacks.uplift else 1
    figure = _figure(max(7.6, 5.6 * len(kinds)), 4.4 if rows == 1 else 6.6)
    grid = figure.subplots(
        rows, len(kinds), squeeze=False, sharex="col", sharey="row", height_ratios=[1.0] if rows == 1 else [1.6, 1.0]
    )
    names = [_STYLES[name]["label"] for name in attacks.uplift.get("ceilings", ())]
    against = f"over the largest of {', '.join(names)}" if len(names) > 1 else f"over {', '.join(names)} alone"
    for axis, kind in zip(grid[0], kinds, strict=True):
        for order, model in enumerate(attacks.models):
            style = _STYLES[model]
            for one in attacks.attackers.values():
                if one["kind"] == kind and model not in _ANYWAY:
                    axis.plot(*_curve(one["accuracy"][model], "mean"), linewidth=0.8, alpha=0.35, color=style["color"])
            _with_band(axis, attacks.worst_case[kind][model], model, "mean", order)
        axis.axhline(100 * attacks.chance, color=_INK, linewidth=1, linestyle=":", label="chance")
        axis.set_ylim(0, 103)
        axis.set_title("heads on the frozen features" if kind == "probe" else "fine-tuning", fontsize=11, color=_INK)
        _finish(axis, legend=False)
    for axis, kind in zip(grid[-1], kinds, strict=True):
        if rows == 2:
            for order, (model, by_budget) in enumerate(attacks.uplift["worst_case"][kind].items()):
                _with_band(axis, by_budget, model, "value", order)
            axis.axhline(0, color=_INK, linewidth=1)
            axis.set_title(against, fontsize=8, color=_INK)
            _finish(axis, legend=False)
        steps, _ = _curve(attacks.worst_case[kind]["initial"], "mean")
        axis.set_xscale("log")
        axis.set_xticks(steps, [f"{step:,}" for step in steps])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel("steps of the attacker")
    grid[0][0].set_ylabel("harmful accuracy (%)")
    if rows == 2:
        grid[1][0].set_ylabel("uplift (points)")
    _legend_above(figure, grid[0][0])
    return figure


def plot_trials(attacks: AttackReport | None) -> Figure | None:
    """The best so far against the number of settings tried, at the largest budget of steps.

    Returns:
        a column a kind of attacker, a staircase a model: the test accuracy of the setting that validation rows prefer;
        None without a report, or in one of before searches were kept.
    """
    kinds = [] if attacks is None else searched(attacks.trials)
    if attacks is None or not kinds:
        return None
    figure = _figure(max(6.4, 4.4 * len(kinds)), 3.2)
    axes = figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
    for axis, kind in zip(axes, kinds, strict=True):
        for model in attacks.models:
            search = list(attacks.trials[kind][model].values())[-1]
            found = search["improvements"]
            ranks = [*(one["trial"] for one in found), search["tried"]]
            accuracy = [100 * one["accuracy"] for one in [*found, found[-1]]]
            style = {key: value for key, value in _STYLES[model].items() if key != "marker"}
            axis.step(ranks, accuracy, where="post", linewidth=2, **style)
            axis.plot(ranks[:-1], accuracy[:-1], _STYLES[model]["marker"], color=style["color"], markersize=4)
        steps = int(list(attacks.trials[kind]["immunized"])[-1])
        what = "heads" if kind == "probe" else "fine-tuning"
        axis.set_title(f"{what}, {steps:,} steps", fontsize=10, color=_INK)
        axis.set_ylim(0, 103)
        axis.set_xlabel("settings tried")
        _finish(axis, legend=False)
    axes[0].set_ylabel("harmful accuracy (%)")
    _legend_above(figure, axes[0])
    return figure


def searched(trials: Mapping[str, Any]) -> list[str]:
    """The kinds of attackers of which a report keeps how the search went, for :func:`plot_trials`."""
    ends = {kind: [list(by_steps.values())[-1] for by_steps in one.values()] for kind, one in trials.items()}
    return [kind for kind, searches in ends.items() if all(one["improvements"] for one in searches)]


def _curve(by_samples: dict[str, dict[str, Any]], figure: str) -> tuple[list[int], list[float]]:
    """Steps, and a figure there in percent, at the largest budget of samples."""
    cells = list(by_samples.values())[-1]
    return [int(step) for step in cells], [100 * cell[figure] for cell in cells.values()]


def _with_band(axis: Axes, by_samples: dict[str, dict[str, Any]], model: str, figure: str, order: int) -> None:
    (steps, values), (_, low), (_, high) = (_curve(by_samples, name) for name in (figure, "low", "high"))
    style = _STYLES[model]
    # The dashes of θ0 over the line of a model that does as well, not under it.
    axis.plot(steps, values, linewidth=2.8, markersize=5, zorder=5 - 0.1 * order, **style)
    axis.fill_between(steps, low, high, color=style["color"], alpha=0.12, linewidth=0)


def _legend_above(figure: Figure, axis: Axes) -> None:
    handles, labels = axis.get_legend_handles_labels()
    columns = len(labels) if len(labels) < 6 else (len(labels) + 1) // 2
    legend = figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False, fontsize=9)
    for text in legend.get_texts():
        text.set_color(_INK)


def plot_verification(claims: Sequence[Claim]) -> Figure:
    """Each claim that was asked for, by how far the measured figure lies from it in units of its tolerance."""
    shown = [one for one in claims if one.asked]
    figure = _figure(8.4, 1.2 + 0.22 * len(shown))
    axis = figure.subplots()
    axis.axvspan(-1, 1, color=_STYLES["scratch"]["color"], alpha=0.12, linewidth=0)
    axis.axvline(0, color=_GRID, linewidth=1)
    looks = {"holds": ("scratch", "o"), "differs": ("immunized", "X"), "cannot be checked": ("control", "$?$")}
    for place, one in enumerate(shown):
        color, mark = _STYLES[looks[one.status][0]]["color"], looks[one.status][1]
        distance = 0.0 if one.status != "differs" else FURTHEST
        if one.tolerance and all(isinstance(value, (int, float)) for value in (one.claimed, one.measured)):
            distance = (one.measured - one.claimed) / one.tolerance
        axis.scatter([max(-FURTHEST, min(FURTHEST, distance))], [place], color=color, marker=mark, s=36, zorder=3)
    axis.set_yticks(range(len(shown)), [_wrapped(one.name) for one in shown], fontsize=7)
    axis.set_ylim(len(shown) - 0.5, -0.5)
    axis.set_xlim(-FURTHEST - 0.3, FURTHEST + 0.3)
    hold, differ, unchecked = (sum(one.status == status for one in shown) for status in looks)
    title = f"{hold} claims hold, {differ} differ, {unchecked} cannot be checked"
    axis.set_title(title, fontsize=10, color=_INK)
    axis.set_xlabel(f"(measured − claimed) / tolerance, at most ±{FURTHEST:g}")
    _finish(axis, legend=False)
    return figure


def save_figures(record: ImmunizationRecord, folder: str | Path) -> list[Path]:
    """Draws what the record has results for into ``folder/figures`` and returns the paths."""
    written = []
    attacks = record.attack_report
    drawn = {
        SPECTRA_NAME: plot_spectra(record),
        ATTACKS_NAME: plot_attacks(attacks),
        TRIALS_NAME: plot_trials(attacks),
    }
    for name, figure in drawn.items():
        if figure is None:
            continue
        written.append(save_figure(figure, Path(folder) / FIGURES_FOLDER / name))
    return written


def save_figure(figure: Figure, path: Path) -> Path:
    """Writes a figure as PNG and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, facecolor="white", metadata={"Software": None})
    return path


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

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
    # A dollar sign would begin a formula, and a name is none.
    return "\n".join(textwrap.wrap(title, width=64, max_lines=3, placeholder=" …")).replace("$", r"\$")
