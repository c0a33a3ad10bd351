"""The model card: valid metadata and a text that says what was measured, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import ModelCard

from hf_immunize.attacks.attacker import listed
from hf_immunize.attacks.report import CEILINGS, AttackReport, largest, last_improvement
from hf_immunize.release.card_metadata import RATIOS, card_metadata, rir_report
from hf_immunize.release.figures import ATTACKS_NAME, FIGURES_FOLDER, SPECTRA_NAME, TRIALS_NAME, searched
from hf_immunize.release.markup import cell, code, fenced, join, python_string
from hf_immunize.release.merging import marked, merge_cards
from hf_immunize.release.record import ImmunizationRecord
from hf_immunize.release.summary import five_numbers, number, percent, state, steps_of, verdict_sentences
from hf_immunize.spectra.ratio import SIGN

__all__ = ["create_model_card"]

TEMPLATE = Path(__file__).parent / "templates" / "model_card.md.jinja"
_NAMES = {"initial": "θ0", **CEILINGS}
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
PAPER = "https://arxiv.org/abs/2505.23760"


def create_model_card(
    record: ImmunizationRecord, model_id: str, *, existing: str | None = None, figures: tuple[str, ...] | None = None
) -> ModelCard:
    """The card of an immunized model.

    Args:
        record: what was done and measured; a result that it does not hold leaves no sentence.
        model_id: the Hub id, or the folder's name, that the loading example shows.
        existing: the text of an earlier card; its author's text and metadata are kept.
        figures: names of the files in ``figures/``; by default those that the record has results for.

    Returns:
        a card whose generated part stands between two marks.
    """
    if figures is None:
        found = record.results.get("attacks") or {}
        held = {SPECTRA_NAME: record.results.get("spectra"), ATTACKS_NAME: found}
        held[TRIALS_NAME] = searched(found.get("trials") or {})
        figures = tuple(name for name, one in held.items() if one)
    # The client renders a template without trimming its blocks, which would tear the tables apart.
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=False
    )
    number_models, numbers = five_numbers(record)
    body = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        record=record,
        model_id=model_id,
        title=model_id.split("/")[-1],
        paper=PAPER,
        figures={name: f"{FIGURES_FOLDER}/{name}" for name in figures},
        spectra_name=SPECTRA_NAME,
        attacks_name=ATTACKS_NAME,
        trials_name=TRIALS_NAME,
        rir_rows=_rir_rows(record),
        accuracy=record.results.get("primary_accuracy") or {},
        attacks=_attacks(record),
        reading=_reading(record),
        verdict=verdict_sentences(record),
        numbers=numbers,
        number_models=number_models,
        unchecked=_cannot_be_checked(record),
        percent=percent,
        hub_link=bool(record.base_model_hub_id and _HUB_ID.fullmatch(record.base_model_hub_id)),
        cell=cell,
        code=code,
        fenced=fenced,
        join=join,
        python_string=python_string,
        flat=_flat,
        steps=steps_of,
    )
    body = re.sub(r"\n{3,}", "\n\n", body).strip()
    card = ModelCard.from_template(
        card_metadata(record, model_id), template_str="---\n{{ card_data }}\n---\n\n{{ body }}\n", body=marked(body)
    )
    return merge_cards(existing, card) if existing else card


def _cannot_be_checked(record: ImmunizationRecord) -> str | None:
    """Why a stranger cannot measure the figures again from what is published; None where they can."""
    missing = []
    fetched = {name for name in ("initial", "public") if record.on_the_hub(name)}
    fetched |= {name.partition("/")[0] for name in record.files}
    if "initial" not in fetched:
        missing.append("θ0")
    for task in ("primary", "harmful"):
        data = getattr(record, task)
        if data.source != "package" and data.hub_dataset != data.name:
            missing.append(f"the {task} data")
    ceilings = {*(record.results.get("attacks") or {}).get("uplift", {}).get("ceilings", ())} - {"scratch"}
    if ceilings - fetched:
        missing.append("the networks that uplift is counted over")
    if not missing:
        return None
    return f"{listed(missing)} {'is' if len(missing) == 1 and missing[0] == 'θ0' else 'are'} not published at a commit"


def _rir_rows(record: ImmunizationRecord) -> list[dict[str, str]]:
    """One row a model and protocol: the three ratios, the ranks and n."""
    rows = []
    for model in ("immunized", "control"):
        report = rir_report(record, model)
        if not report:
            continue
        protocol = report["protocol"]
        ranks = report["ranks"]
        grouped = {key: _ratio(report[key]) for key in RATIOS}
        group_ranks = {
            f"rank_{task}": f"{ranks[f'initial_{task}']} → {ranks[f'immunized_{task}']}"
            for task in ("harmful", "primary")
        }
        size = f"{protocol['groups']} groups of {protocol['group_size']}"
        size += ", limited by precision" if report["precision_limited"] else ""
        # Records name a size of the primary groups where it is another.
        n = " / ".join(str(protocol[key]) for key in ("group_size", "group_size_primary") if key in protocol)
        rows.append({"model": model, "protocol": size, "n": n, **grouped, **group_ranks})
        everything = report.get("all_samples")
        if everything:
            row = {key: SIGN[everything[f"{key}_bound"]] + number(everything[key]) for key in RATIOS}
            for task in ("harmful", "primary"):
                before, after = (everything[f"{when}_{task}_rank"] for when in ("initial", "immunized"))
                row[f"rank_{task}"] = f"{before} → {after}"
            limited = ", limited by precision" if everything["precision_limited"] else ""
            count = f"{report['n_harmful']} / {report['n_primary']}"
            rows.append({"model": model, "protocol": f"all samples{limited}", "n": count, **row})
    return rows


def _ratio(values: dict[str, Any]) -> str:
    text = SIGN[values["bound"]] + number(values["mean"])
    return f"{text} ± {number(values['spread'])}" if values.get("spread") is not None else text


def _attacks(record: ImmunizationRecord) -> dict[str, Any] | None:
    """The report of the attackers in the form that the template shows."""
    report = record.attack_report
    if report is None:
        return None
    rows = [
        {
            **row,
            "cells": [_with_interval(row["accuracy"][model]) for model in report.models],
            "recovery": _with_interval(row["recovery"] | {"mean": row["recovery"]["value"]}, percent=False),
            "uplift": _uplift(largest(report.uplift["attackers"][row["name"]])) if report.uplift else None,
            "cost": _cost(row["slowdown"]) if _has_steps(report, row["name"]) else "–",
            "steps": row["steps"] if _has_steps(report, row["name"]) else "–",
            "state": state(row["recovery"]),
        }
        for row in report.rows()
    ]
    by_budget = [
        {
            "kind": kind,
            "samples": samples,
            "steps": steps,
            "cells": [_worst_cell(by_model[model][samples][steps]) for model in report.models],
        }
        for kind, by_model in report.worst_case.items()
        for samples, by_steps in by_model["initial"].items()
        for steps in by_steps
    ]
    worst = [
        {"kind": kind, "cells": [_with_interval(largest(by_model[model])) for model in report.models]}
        for kind, by_model in report.worst_case.items()
    ]
    return {
        "report": report,
        "models": [_NAMES.get(model, model) for model in report.models],
        "uplift": _uplift_rows(report),
        "uplift_models": [_NAMES.get(model, model) for model in report.models if model not in CEILINGS],
        "ceilings": [what for name, what in CEILINGS.items() if name in report.models],
        "unmeasured": [what for name, what in CEILINGS.items() if name not in report.models],
        "names": _NAMES,
        "searches": [one for trials in report.trials.values() if (one := last_improvement(trials))],
        "rows": rows,
        "worst": worst,
        "by_budget": by_budget,
        "fine_tuning": "fine-tuning" in report.worst_case,
        "cost_sentences": _cost_sentences(report),
    }


def _uplift_rows(report: AttackReport) -> list[dict[str, Any]]:
    """What each model adds to the largest ceiling, a row a kind of attackers and budget."""
    rows = []
    for kind, by_model in report.uplift.get("worst_case", {}).items():
        for samples, by_steps in by_model["immunized"].items():
            for steps, own in by_steps.items():
                cells = [_uplift(by_budget[samples][steps]) for by_budget in by_model.values()]
                level = report.worst_case[kind][own["ceiling"]][samples][steps]["mean"]
                ceiling = f"{CEILINGS[own['ceiling']]}, {percent(level)}"
                rows.append({"kind": kind, "samples": samples, "steps": steps, "ceiling": ceiling, "cells": cells})
    return rows


def _uplift(cell: dict[str, Any]) -> str:
    value, low, high = (100 * cell[name] for name in ("value", "low", "high"))
    return f"{value:+.1f} ({low:+.0f} to {high:+.0f})".replace("-", "−")


def _has_steps(report: AttackReport, attacker: str) -> bool:
    """Whether an attacker goes in steps: ridge regression and nearest neighbours are the same after any number."""
    cells = report.attackers[attacker]["accuracy"].values()
    fits = [{cell["mean"] for cell in by_steps.values()} for by_samples in cells for by_steps in by_samples.values()]
    budgets = max(len(by_steps) for by_samples in cells for by_steps in by_samples.values())
    return budgets < 2 or any(len(one) > 1 for one in fits)


def _with_interval(cell: dict[str, Any], percent: bool = True) -> str:
    if cell["mean"] is None:
        return "–"
    if percent:
        return f"{100 * cell['mean']:.1f} % ({100 * cell['low']:.0f}–{100 * cell['high']:.0f})"
    return f"{cell['mean']:.2f} ({cell['low']:.2f} to {cell['high']:.2f})"


def _worst_cell(cell: dict[str, Any]) -> str:
    return f"{100 * cell['mean']:.1f} % ({cell['attacker']})"


def _cost(cost: dict[str, Any]) -> str:
    if not cost["reached"]:
        return f"{cost['initial']} → not reached"
    return f"{cost['initial']} → {cost['immunized']}"


def _cost_sentences(report: AttackReport) -> list[str]:
    """What the strongest attackers need on the immunized model, in sentences."""
    sentences = []
    for kind, costs in report.cost_ratio.items():
        for unit, cost in costs.items():
            what = "training images a class" if unit == "samples" else "steps"
            target = f"{100 * cost['target']:.1f} % (nine tenths of θ0's)"
            after = (
                f"{cost['immunized']} {what} on the immunized model"
                if cost["reached"]
                else f"is not reached within the budgets of {what} on the immunized model"
            )
            sentences.append(
                f"Strongest {kind}: {target} takes {cost['initial']} {what} on θ0, {after}.".replace(
                    ", is not", "; it is not"
                )
            )
    return sentences


def _reading(record: ImmunizationRecord) -> list[str]:
    """Sentences on the ratios that a reader must not miss, each only where the numbers call for it."""
    report, control = rir_report(record, "immunized"), rir_report(record, "control")
    if not report:
        return []
    sentences = []
    if report["rir_ii"]["mean"] > 1:
        sentences.append(
            "(ii) is above 1: the primary features are worse conditioned than before as well, so a primary head fitted "
            "from scratch by gradient descent would also be slower."
        )
    if report["rir_i"]["mean"] <= 1:
        sentences.append("(i) is not above 1: by its condition number the harmful fit has not become slower.")
    if control and control["rir"]["mean"] >= report["rir"]["mean"]:
        sentences.append("The control's RIR is at least as large: it does not show that the objective did anything.")
    shown = [one for one in (report, control) if one]
    everything = [one["all_samples"] for one in shown if one.get("all_samples")]
    bounds = {one[key]["bound"] for one in shown for key in RATIOS}
    bounds |= {one[f"{key}_bound"] for one in everything for key in RATIOS}
    if "lower" in bounds or "upper" in bounds:
        sentences.append("≥ and ≤ mark bounds: a singular value lay under the floor of rounding.")
    if "undetermined" in bounds:
        sentences.append("? marks a ratio of two bounds, which says nothing about the true value.")
    if any(one["precision_limited"] for one in shown + everything):
        sentences.append(
            "“Limited by precision”: θ0's own spectrum runs into rounding without a gap, so this figure shows the "
            "tolerance and not the model."
        )
    return sentences


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """Settings within settings under one name: ``{"fit": {"steps": 3}}`` as ``{"fit.steps": 3}``; None is left out."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": one for inner, one in _flat(value).items()}
        elif value is not None:
            flat[key] = join(value) if isinstance(value, (list, tuple)) else value
    return flat
