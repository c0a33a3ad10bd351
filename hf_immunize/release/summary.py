"""What a card says first: the verdict in a few sentences, five numbers, and the words and digits of all figures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hf_immunize.attacks.report import CEILINGS, AttackReport, largest
from hf_immunize.attacks.uplift import most_uplift
from hf_immunize.attacks.verdict import THRESHOLDS
from hf_immunize.release.card_metadata import rir_report
from hf_immunize.release.record import ImmunizationRecord
from hf_immunize.spectra.ratio import SIGN

__all__ = ["five_numbers", "number", "percent", "state", "steps_of", "verdict_sentences"]

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
#: What the verdict calls a kind of attackers → what that means for somebody who never read the thresholds.
OUTCOMES = {
    "held": "held back",
    "weakened": "held back in part",
    "broken": "not held back",
    "undecided": "undecided, θ0 itself hardly helps",
    "not tried": "not measured; assume that it succeeds",
}
KINDS = {"probe": "a new head on the frozen features", "fine-tuning": "fine-tuning of the weights"}


def number(value: float) -> str:
    """Three significant digits, with a power of ten for the very large and the very small."""
    if not math.isfinite(value):
        return "∞" if value > 0 else "−∞" if value < 0 else "not a number"
    if value == 0:
        # Also of the zero with a sign.
        return "0"
    if 1e-2 <= abs(value) < 9999.5:
        # What rounds to four digits would be written with an e.
        return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(_SUPERSCRIPT)}"


def percent(value: float | None) -> str:
    """A share, as a percentage."""
    return "–" if value is None else f"{100 * value:.1f} %"


def steps_of(value: int | None) -> str:
    """A number of steps; None where there are too many to count."""
    return "> 10¹⁵" if value is None else f"{value:,}" if value < 10**6 else number(float(value))


def state(recovery: Mapping[str, Any]) -> str:
    """What one attacker came to, in the words of the verdict."""
    value = recovery["value"]
    if value is None:
        return "undecided"
    return "broken" if value >= THRESHOLDS["broken"] else "weakened" if value >= THRESHOLDS["held"] else "held"


def verdict_sentences(record: ImmunizationRecord) -> list[str]:
    """What attackers get of the harmful task, and what an unrelated task paid, a sentence each."""
    report = record.attack_report
    if report is None:
        return ["No attacker was run on this model: nothing is known of what it stops."]
    sentences = []
    for kind, what in KINDS.items():
        outcome = report.verdict["outcome"][kind]
        said = f"{what[0].upper()}{what[1:]}: **{OUTCOMES[outcome]}**"
        if kind in report.worst_case:
            tried = sum(one["kind"] == kind for one in report.attackers.values())
            best = {model: largest(by)["mean"] for model, by in report.worst_case[kind].items()}
            said += f", the best of {_ways(tried)} gets {percent(best['immunized'])} of the harmful test images right"
            if "control" in best:
                said += f" ({percent(best['control'])} after plain fine-tuning of the same model, the control)"
            if "scratch" in best:
                said += f"; on random weights {percent(best['scratch'])}"
        sentences.append(f"{said}.{_beyond(report, kind)}")
    if report.flags:
        sentences.append(f"It hides rather than holds: {'; '.join(report.flags.values())}.")
    if report.selectivity:
        cost = report.selectivity["cost"]
        against = "the control" if report.selectivity["against"] == "control" else "θ0"
        paid = f"costs {100 * cost:.1f} points" if cost > 0 else "costs nothing"
        sentences.append(f"A new head for an unrelated task that training never saw {paid} against {against}.")
        tuned = report.selectivity.get("fine-tuning", {})
        if tuned:
            steps, most = max(tuned.items(), key=lambda one: one[1]["cost"])
            points = f"costs up to {100 * most['cost']:.1f} points, at {int(steps):,} steps,"
            paid = points if most["cost"] > 0 else "costs nothing"
            sentences.append(f"Fine-tuning for that task {paid} against {against}.")
    return sentences


def _beyond(report: AttackReport, kind: str) -> str:
    """What that is beyond what an attacker has without the release; nothing where no ceiling was measured."""
    if kind not in report.uplift.get("worst_case", {}):
        return ""
    best = most_uplift(report.uplift["worst_case"][kind]["immunized"])
    ceiling = f"{CEILINGS[best['ceiling']]}, which an attacker has anyway"
    points = f"{100 * best['value']:.1f} points at most, at {int(best['steps']):,} steps"
    outcome = report.verdict.get("uplift", {}).get(kind)
    if outcome == "nothing":
        return f" That is nothing beyond {ceiling}."
    return f" Beyond {ceiling}, that is {points}{'' if outcome == 'something' else ', within the error'}."


def _ways(count: int) -> str:
    return f"{count} ways" if count > 1 else "one way"


def five_numbers(record: ImmunizationRecord) -> tuple[list[str], list[dict[str, Any]]]:
    """The few figures that stand on top: names of the models, and a row each of ``what`` and ``cells``."""
    results = record.results
    models = [name for name in ("initial", "control", "immunized") if name in results.get("primary_accuracy", {})]
    models = models or ["initial", "immunized"]
    rows = []
    if results.get("primary_accuracy"):
        cells = [percent(results["primary_accuracy"].get(model)) for model in models]
        rows.append({"what": "the kept task, accuracy", "cells": cells})
    report = record.attack_report
    if report is not None:
        for kind, by_model in report.worst_case.items():
            name = "the best new head" if kind == "probe" else "the best fine-tuning"
            cells = [percent(largest(by_model[model])["mean"]) if model in by_model else "–" for model in models]
            rows.append({"what": f"the harmful task, {name}", "cells": cells})
        if report.selectivity:
            cells = [percent((report.selectivity.get(model) or {}).get("mean")) for model in models]
            rows.append({"what": "an unrelated task, the best new head", "cells": cells})
    if rir_report(record, "immunized"):
        rows.append(_conditioning(record, report, models))
    return [{"initial": "before (θ0)"}.get(model, model) for model in models], rows


def _conditioning(record: ImmunizationRecord, report: AttackReport | None, models: list[str]) -> dict[str, Any]:
    """RIR, beside the steps that gradient descent needs: a figure that anybody understands."""
    cells = []
    for model in models:
        one = rir_report(record, model)
        cell = (
            "1"
            if model == "initial"
            else "–"
            if one is None
            else f"{SIGN[one['rir']['bound']]}{number(one['rir']['mean'])}"
        )
        steps = (report.exact_steps if report is not None else {}).get(model)
        if steps is not None and "0.1" in steps:
            cell += f"; {steps_of(steps['0.1'])} steps"
        cells.append(cell)
    what = "how much slower the harmful fit is made than the kept one (RIR_θ0)"
    if report is not None and "0.1" in (report.exact_steps.get("immunized") or {}):
        what += "; steps of gradient descent until a tenth of the harmful head's excess loss is left"
    return {"what": what, "cells": cells}
