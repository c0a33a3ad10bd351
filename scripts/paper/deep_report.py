"""Tables of the deep stand-ins, from the finished runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from paper.results import Results

from hf_immunize.attacks.report import largest
from hf_immunize.spectra.ratio import SIGN

__all__ = ["COLOURS", "KINDS", "kinds_run", "recoveries", "report"]

#: Methods in the order of the tables, each with its colour.
COLOURS = {
    "init": "#000000",
    "control": "#8c8c8c",
    "r_ill_only": "#56b4e9",
    "imma": "#009e73",
    "opt_kappa": "#cc79a7",
    "opt_log_kappa": "#0072b2",
    "condition_raw": "#e69f00",
    "condition": "#d55e00",
}
KINDS = {"probe": "probe", "fine-tuning": "fine-tuning attacker"}


def report(results: Results, attacked: Results, pairs: Sequence[tuple[str, str]]) -> str:
    """Everything as Markdown: overviews with a column a backbone and task, the paper's columns, the attackers."""
    heads = [f"{backbone}, {task}" for backbone, task in pairs]
    parts = [
        "RIR, mean and spread over seeds; in brackets the points of primary accuracy against θ0.",
        _grid(heads, [(method, [_ratio_cell(results, pair, method) for pair in pairs]) for method in COLOURS]),
    ]
    kinds = kinds_run(attacked, pairs)
    if kinds:
        for kind in kinds:
            parts += [
                f"Seed 0: accuracy of the strongest {KINDS[kind]} on the harmful task, in brackets its recovery; after "
                "the stroke the points that the benign task has more or less than on the control.",
                _grid(
                    heads,
                    [(method, [_attack_cell(attacked, pair, method, kind) for pair in pairs]) for method in COLOURS],
                ),
            ]
        parts += [
            "Seed 0: accuracy of the strongest probe on the benign task.",
            _grid(heads, [(method, [_benign_cell(attacked, pair, method) for pair in pairs]) for method in COLOURS]),
            *(correlation(results, attacked, pairs, kind) for kind in kinds),
        ]
    parts.append(table(results, pairs))
    if kinds:
        parts.append(attack_table(results, attacked, pairs))
    return "\n\n".join(parts)


def _grid(heads: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    lines = [f"| method | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows)])


def _ratio_cell(results: Results, pair: tuple[str, str], method: str) -> str:
    done = [row for row in results.of(pair, method) if "stopped" not in row]
    if not done:
        return "stopped"
    cost = _mean([100 * (row["primary_accuracy"] - row["initial_primary_accuracy"]) for row in done])
    return f"{_over_seeds([row['rir']['rir'] for row in done])} ({cost:+.1f})"


def _attack_cell(attacked: Results, pair: tuple[str, str], method: str, kind: str) -> str:
    found = attacked.reports(pair).get(method)
    if found is None or kind not in found["worst_case"]:
        return "–"
    strongest = largest(found["worst_case"][kind]["immunized"])
    value = found["recovery"][strongest["attacker"]]["value"]
    recovery = "" if value is None else f" ({value:.2f})"
    return f"{100 * strongest['mean']:.1f} %{recovery} / {_benign_change(found)}"


def _benign_cell(attacked: Results, pair: tuple[str, str], method: str) -> str:
    found = attacked.reports(pair).get(method)
    return "–" if found is None else f"{100 * found['selectivity']['immunized']['mean']:.1f} %"


def _benign_change(found: dict[str, Any]) -> str:
    """Points of the benign task against the control."""
    if found["selectivity"]["against"] != "control":
        return "no control"
    # + 0.0: no difference is +0.0 and not -0.0.
    return f"{-100 * found['selectivity']['cost'] + 0.0:+.1f}"


def kinds_run(attacked: Results, pairs: Sequence[tuple[str, str]]) -> list[str]:
    """The kinds of attackers that were run, in the order of the tables."""
    run = {kind for pair in pairs for found in attacked.reports(pair).values() for kind in found["worst_case"]}
    return [kind for kind in KINDS if kind in run]


def table(results: Results, pairs: Sequence[tuple[str, str]]) -> str:
    """The paper's columns, mean and spread over seeds."""
    lines = [
        "| backbone | harmful task | method | (i) | (ii) | RIR | rank | RIR, all samples | primary accuracy |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for pair in pairs:
        for method in COLOURS:
            rows = results.of(pair, method)
            done = [row for row in rows if "stopped" not in row]
            if not done:
                if rows:
                    lines.append(f"| {' | '.join(pair)} | {method} | stopped: {rows[0]['stopped']} | | | | | |")
                continue
            cells = [_over_seeds([row["rir"][name] for row in done]) for name in ("rir_i", "rir_ii", "rir")]
            ranks = {
                f"{row['rir']['ranks']['initial_harmful']}→{row['rir']['ranks']['immunized_harmful']}" for row in done
            }
            whole = [
                {"mean": row["rir"]["all_samples"]["rir"], "bound": row["rir"]["all_samples"]["rir_bound"]}
                for row in done
            ]
            accuracy = [100 * row["primary_accuracy"] for row in done]
            stopped = f" ({len(rows) - len(done)} of {len(rows)} seeds stopped)" if len(done) < len(rows) else ""
            lines.append(
                f"| {' | '.join(pair)} | {method}{stopped} | {' | '.join(cells)} | {', '.join(sorted(ranks))} | "
                f"{_over_seeds(whole)} | {_mean(accuracy):.1f} ± {_spread(accuracy):.1f} |"
            )
    return "\n".join(lines)


def attack_table(results: Results, attacked: Results, pairs: Sequence[tuple[str, str]]) -> str:
    """RIR beside what the strongest attackers reach and recover, and the cost on the benign task; models of seed 0."""
    lines = [
        "| backbone | harmful task | method | RIR, median | attackers | strongest | its accuracy | recovery | "
        "steps to 90 %, θ0 → model | benign task (against the control) | outcome |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for pair, method, found, ratio in _attacked_models(results, attacked, pairs):
        for kind in [kind for kind in KINDS if kind in found["worst_case"]]:
            strongest = largest(found["worst_case"][kind]["immunized"])
            recovery = found["recovery"][strongest["attacker"]]
            share = "–"
            if recovery["value"] is not None:
                share = f"{recovery['value']:.2f} ({recovery['low']:.2f} to {recovery['high']:.2f})"
            steps = found["cost_ratio"][kind]["steps"]
            cost = f"{steps['initial']} → {steps['immunized'] if steps['reached'] else 'not reached'}"
            lines.append(
                f"| {' | '.join(pair)} | {method} | {SIGN[ratio['bound']]}{ratio['median']:.3g} | {kind} | "
                f"{strongest['attacker']} | {100 * strongest['mean']:.1f} % | {share} | {cost} | "
                f"{100 * found['selectivity']['immunized']['mean']:.1f} % ({_benign_change(found)}) | "
                f"{found['verdict']['outcome'][kind]} |"
            )
    return "\n".join(lines)


def correlation(results: Results, attacked: Results, pairs: Sequence[tuple[str, str]], kind: str) -> str:
    """Whether RIR predicts what the strongest attacker of a kind recovers, in a sentence."""
    points = [(ratio["median"], value) for _, _, ratio, value in recoveries(results, attacked, pairs, kind)]
    if len(points) < 3:
        return f"Too few models to tell whether RIR predicts the recovery of the strongest {KINDS[kind]}."
    rho = pd.DataFrame(points).rank().corr().iloc[0, 1]
    return (
        f"Rank correlation of median RIR and recovery by the strongest {KINDS[kind]}, {len(points)} models: {rho:.2f}."
    )


def recoveries(
    results: Results, attacked: Results, pairs: Sequence[tuple[str, str]], kind: str
) -> list[tuple[tuple[str, str], str, dict[str, Any], float]]:
    """Backbone and task, method, RIR over groups, recovery by the strongest attacker of a kind, where there is one."""
    points = []
    for pair, method, found, ratio in _attacked_models(results, attacked, pairs):
        if kind not in found["worst_case"]:
            continue
        value = found["recovery"][largest(found["worst_case"][kind]["immunized"])["attacker"]]["value"]
        if method != "init" and value is not None:
            points.append((pair, method, ratio, value))
    return points


def _attacked_models(
    results: Results, attacked: Results, pairs: Sequence[tuple[str, str]]
) -> Iterator[tuple[tuple[str, str], str, dict[str, Any], dict[str, Any]]]:
    """Backbone and task, method, report of the attackers, RIR over groups."""
    for pair in pairs:
        reports = attacked.reports(pair)
        for method in COLOURS:
            if method in reports:
                yield pair, method, reports[method], results["/".join((*pair, method, "0"))]["rir"]["rir"]


def _over_seeds(values: list[dict[str, Any]]) -> str:
    bounds = {value["bound"] for value in values} - {"exact"}
    sign = "" if not bounds else SIGN[bounds.pop()] if len(bounds) == 1 else SIGN["undetermined"]
    means = [value["mean"] for value in values]
    return f"{sign}{_mean(means):.3g} ± {_spread(means):.2g}"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _spread(values: list[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
