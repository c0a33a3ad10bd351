"""The metadata of a card, and the same results in the two forms that the Hub reads."""

from __future__ import annotations

import math
import re
from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData
from huggingface_hub import eval_result_entries_to_yaml as entries_to_dicts

from hf_immunize.release.record import DatasetRecord, ImmunizationRecord
from hf_immunize.spectra.ratio import SIGN

__all__ = ["EVAL_RESULTS_NAME", "RATIOS", "card_metadata", "card_tags", "eval_results_yaml", "rir_report"]

EVAL_RESULTS_NAME = ".eval_results/hf_immunize.yaml"
RATIOS = {"rir": "RIR_θ0", "rir_i": "(i) κ_H(θᴵ)/κ_H(θ0)", "rir_ii": "(ii) κ_P(θᴵ)/κ_P(θ0)"}
_TASK: dict[str, Any] = {"task_type": "image-classification", "task_name": "Image Classification"}


def card_metadata(record: ImmunizationRecord, model_id: str) -> ModelCardData:
    """What stands between the --- lines. Only ids of the Hub are named as base model and as data sets."""
    hub_datasets = [data.hub_dataset for data in (record.primary, record.harmful, record.benign) if data is not None]
    datasets = list(dict.fromkeys(name for name in hub_datasets if name))
    base: dict[str, Any] = {}
    if record.base_model_hub_id:
        base = {"base_model": record.base_model_hub_id, "base_model_relation": "finetune"}
    results = _eval_results(record)
    return ModelCardData(
        **base,
        datasets=datasets or None,
        eval_results=results or None,
        model_name=model_id.split("/")[-1] if results else None,
        library_name=record.library,
        license=record.license,
        metrics=["accuracy"] if "primary_accuracy" in record.results else None,
        pipeline_tag="image-classification",
        tags=card_tags(record.library),
    )


def card_tags(library: str) -> list[str]:
    """The tags of every card of a library's model."""
    return ["model-immunization", "hf-immunize", "image-classification", library]


def eval_results_yaml(record: ImmunizationRecord) -> str | None:
    """The ``.eval_results`` file: primary accuracy and RIR, as the Hub's newer form of results.

    The schema demands the Hub id of a data set and the id of a task in that data set's ``eval.yaml``. The Hub shows a
    result where the data set is a registered benchmark with that task, and keeps it silently otherwise. So a result on
    data that the Hub does not have is no valid entry: it stands in ``model-index`` only.

    Returns:
        YAML, or None where no result has a data set on the Hub.
    """
    entries = []
    accuracy = (record.results.get("primary_accuracy") or {}).get("immunized")
    if accuracy is not None and record.primary.hub_dataset:
        notes = f"accuracy, split {record.primary.eval_split or 'not named'}"
        notes += f", {record.primary.n_eval} images" if record.primary.n_eval else ""
        notes += _same_data(record.primary) + _classes_note(record.primary)
        entries.append(_entry(record.primary, "image-classification", accuracy, notes))
    rir = rir_report(record, "immunized")
    if rir and record.harmful.hub_dataset and math.isfinite(rir["rir"]["mean"]):
        protocol = rir["protocol"]
        sign = SIGN[rir["rir"]["bound"]].strip()
        notes = (
            f"RIR_θ0 with this data set as the harmful task, {protocol['groups']} groups of {protocol['group_size']} "
            f"samples{f'; the value is a bound ({sign})' if sign else ''}"
            f"{'; limited by precision' if rir['precision_limited'] else ''}"
        )
        notes += _same_data(record.harmful) + _classes_note(record.harmful)
        entries.append(_entry(record.harmful, "relative-immunization-ratio", rir["rir"]["mean"], notes))
    if not entries:
        return None
    return yaml.safe_dump(entries_to_dicts(entries), sort_keys=False, allow_unicode=True)


def _entry(data: DatasetRecord, task: str, value: float, notes: str) -> EvalResultEntry:
    assert data.hub_dataset is not None, "an entry is of a data set on the Hub"
    revision = data.revision if data.name == data.hub_dataset else None
    return EvalResultEntry(data.hub_dataset, task, value, dataset_revision=revision, notes=notes)


def _same_data(data: DatasetRecord) -> str:
    return f"; measured on: {data.name}" if data.hub_id and data.hub_id != data.name else ""


def _classes_note(data: DatasetRecord) -> str:
    return f"; classes: {', '.join(data.classes)}" if data.classes and len(data.classes) <= 20 else ""


def _eval_results(record: ImmunizationRecord) -> list[EvalResult]:
    """Results in the form of ``model-index``; numbers only, so an infinite one is left to the text."""
    results = []
    accuracy = (record.results.get("primary_accuracy") or {}).get("immunized")
    if accuracy is not None:
        results.append(_eval_result(record, "primary", "accuracy", "Accuracy on the primary task", accuracy))
    report = rir_report(record, "immunized")
    for key, name in RATIOS.items():
        if report and math.isfinite(report[key]["mean"]):
            sign = SIGN[report[key]["bound"]].strip()
            limited = ", limited by precision" if report["precision_limited"] else ""
            label = f"{name}, mean over groups{f', {sign}' if sign else ''}{limited}"
            results.append(_eval_result(record, "harmful", key, label, report[key]["mean"]))
    attacks = record.attack_report
    if attacks is not None:
        attacker, accuracy = attacks.strongest("immunized")
        label = f"Accuracy of the strongest harmful attacker ({attacker})"
        results.append(_eval_result(record, "harmful", "harmful_accuracy", label, accuracy))
    return results


def _eval_result(record: ImmunizationRecord, task: str, metric: str, name: str, value: float) -> EvalResult:
    data: DatasetRecord = getattr(record, task)
    title = record.title(task)
    return EvalResult(
        **_TASK,
        dataset_type=data.hub_dataset or re.sub(r"[^a-z0-9]+", "-", data.name.lower()).strip("-") or "unnamed",
        dataset_name=title,
        # Two tasks from one data set are told apart here; the Hub would merge their results otherwise.
        dataset_config=data.config if title == data.name else f"{task} classes",
        dataset_split=data.eval_split,
        dataset_revision=data.revision,
        metric_type=metric,
        metric_name=name,
        metric_value=value,
    )


def rir_report(record: ImmunizationRecord, model: str) -> dict[str, Any] | None:
    """The RIR report of ``"immunized"`` or ``"control"``, None where it was not measured."""
    return (record.results.get("rir") or {}).get(model)
