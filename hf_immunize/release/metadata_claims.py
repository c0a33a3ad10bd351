"""Whether the metadata of a card, and its file of results, name the origin, data and figures of its record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from hf_immunize.release.card_metadata import EVAL_RESULTS_NAME, card_metadata, eval_results_yaml
from hf_immunize.release.claims import Claim
from hf_immunize.release.merging import listed
from hf_immunize.release.record import ImmunizationRecord

__all__ = ["metadata_claims", "results_claims"]

_ORIGIN = ("base_model", "base_model_relation", "datasets", "library_name")
#: Keys of an entry by their place in ``model-index``; what else is not given is not claimed.
_NEEDED = ("metric type", "metric value", "dataset type", "dataset name")
_UNREADABLE = (AttributeError, KeyError, TypeError, yaml.YAMLError)


def metadata_claims(record: ImmunizationRecord, data: Mapping[str, Any]) -> Iterator[Claim]:
    """What stands between the --- lines of a card, beside what the record generates there.

    The licence is its author's to choose: another than the record's is said, and does not count.
    """
    wanted = card_metadata(record, "model").to_dict()
    for key in _ORIGIN:
        own = listed(wanted.get(key))
        other = [one for one in listed(data.get(key)) if one not in own]
        if other:
            why = "" if own else "The record names none."
            held = ", ".join(map(str, own)) or None
            yield Claim(f"the card's metadata ({key})", str(other[0]), held, None, "differs", why)
    given = data.get("license")
    if given is not None and given != record.license:
        why = f"The card's metadata give the licence {given}, the record {record.license or 'none'}."
        yield Claim("the card's metadata (license)", str(given), record.license, why=why, asked=False)
    name = "the card's metadata (model-index)"
    try:
        found = _indexed(data)
    except _UNREADABLE as error:
        yield Claim(name, "model-index", None, None, "differs", f"It cannot be read: {error!r}")
        return
    yield from _compared(name, _indexed(wanted), found)


def results_claims(record: ImmunizationRecord, text: str) -> Iterator[Claim]:
    """The entries of an ``.eval_results`` file, beside those of the record."""
    try:
        found = _results(text)
    except _UNREADABLE as error:
        yield Claim(EVAL_RESULTS_NAME, "the record's figures", None, None, "differs", f"It cannot be read: {error!r}")
        return
    yield from _compared(EVAL_RESULTS_NAME, _results(eval_results_yaml(record) or ""), found)


def _indexed(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    entries = []
    for model in data.get("model-index") or []:
        for result in model.get("results") or []:
            places = {"task": result.get("task") or {}, "dataset": result.get("dataset") or {}}
            entries += [_entry(places | {"metric": one}) for one in result.get("metrics") or []]
    return entries


def _results(text: str) -> list[dict[str, Any]]:
    return [
        _entry(
            {
                "metric": {"type": one["dataset"]["task_id"], "value": one["value"]},
                "dataset": {
                    "type": one["dataset"]["id"],
                    "name": one["dataset"]["id"],
                    "revision": one["dataset"].get("revision"),
                },
            }
        )
        for one in yaml.safe_load(text) or []
    ]


def _entry(places: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    known = {f"{place} {key}": value for place, values in places.items() for key, value in values.items()}
    return dict.fromkeys(_NEEDED) | {key: one for key, one in known.items() if one is not None}


def _compared(name: str, wanted: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]) -> Iterator[Claim]:
    """Each entry that is given beside that of the record which is most like it; the first that is none is shown."""
    for one in found:
        metric = one["metric type"]
        alike = [own for own in wanted if own["metric type"] == metric]
        if not alike:
            yield Claim(
                name, f"{metric} {one['metric value']}", None, None, "differs", "The record holds no such figure."
            )
            return
        own, other = min(((own, _differing(one, own)) for own in alike), key=lambda pair: len(pair[1]))
        if other:
            key = other[0]
            yield Claim(name, f"{metric}: {key} {one[key]}", f"{metric}: {key} {own.get(key)}", None, "differs")
            return
    if found:
        yield Claim(name, "the record's figures", "the record's figures", None, "holds")


def _differing(one: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    return [key for key in one if own.get(key) != one[key]]
