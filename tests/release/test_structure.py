"""What no run writes is no record."""

import copy
import json
import math
from functools import cache

import pytest
from samples import ACCURACY, attack_report, sample_record

from hf_immunize.release.card import create_model_card
from hf_immunize.release.record import ImmunizationRecord
from hf_immunize.release.structure import check_record


@cache
def text():
    return json.dumps(sample_record().to_dict())


def planted(path, value):
    """The sample record with another value, or with none, at a place."""
    values = json.loads(text())
    *inner, last = path.split("/")
    at = values
    for key in inner:
        at = at[int(key)] if isinstance(at, list) else at[key]
    if value is KeyError:
        del at[last]
    else:
        at[last] = value
    return values


PLACES = {
    "results/primary_accuracy/initial": (7.5, -1, math.nan, None, "0.9", True, KeyError),
    "results/rir/immunized/rir/mean": (-1, math.nan, "x", KeyError),
    "results/rir/immunized/rir/bound": ("about", None, []),
    "results/rir/immunized/ranks/initial_harmful": (-1, 1.5, KeyError),
    "results/rir/immunized/protocol": ([], KeyError),
    "results/rir/immunized/all_samples/rir_bound": (KeyError, 5),
    "results/rir/immunized/all_samples/initial_primary_condition_number": (0.5, math.nan),
    "results/spectra/initial_harmful": ([2.0], [None], "abc", {"0": 1}),
    "results/spectra/ranks": ([1], KeyError),
    "results/attacks/attackers": ({}, [], KeyError),
    "results/attacks/attackers/new": ({"kind": "probe", "accuracy": {}},),
    "results/attacks/attackers/ridge regression/kind": ("other", None),
    "results/attacks/attackers/ridge regression/accuracy/immunized": (KeyError, {}, {"all": {}}),
    "results/attacks/attackers/ridge regression/accuracy/immunized/all/300": (KeyError, {"mean": 1.1}),
    "results/attacks/attackers/ridge regression/accuracy/immunized/all/3e5": ({"mean": 0.5, "low": 0.5, "high": 0.5},),
    "results/attacks/worst_case/probe/initial": (KeyError, {}),
    "results/attacks/worst_case/probe/initial/all/300/attacker": (KeyError, 5),
    "results/attacks/recovery/ridge regression": (KeyError,),
    "results/attacks/slowdown/ridge regression/reached": (None, "yes"),
    "results/attacks/cost_ratio/probe/steps/target": (None, 2),
    "results/attacks/exact_steps/initial": (KeyError, {"many": 3}),
    "results/attacks/exact_steps/immunized/0.5": (-3, KeyError),
    "results/attacks/selectivity/cost": (9, KeyError),
    "results/attacks/verdict/text": (5, KeyError),
    "results/attacks/verdict/thresholds": ({}, []),
    "results/attacks/chance": (1.5, None),
    "results/attacks/reference": ("nobody",),
    "results/attacks/notes": ("a note", [5]),
    "results/attacks/more": (5,),
    "primary/classes": ("abc", [1], {"a": 1}),
    "primary/name": (5, None),
    "primary/revision": ("a b", "`x`", 5),
    "primary/n_eval": (-1, "5"),
    "base_model": (5, None, []),
    "architecture": (5,),
    "command": (["x"],),
    "license": (["mit"], 5),
    "trainable/n_parameters": ("many", -1),
    "seeds": ([1], 5),
    "versions": (["x"], {"python": 3}),
    "objective": ("condition",),
    "training": ("x",),
    "training/budget": ("x", {}, {"max_accuracy_drop": 0.5}),
    "files": ({"a": 5}, ["a"]),
}


def test_what_a_run_writes_passes():
    check_record(sample_record().to_dict() | {"results": sample_record().results})
    for results in ({}, {"primary_accuracy": {}}, {"rir": None}):
        check_record(sample_record(results=results).to_dict())
    record = sample_record()
    accuracy = ACCURACY | {"last block": dict.fromkeys(("initial", "control", "immunized", "scratch"), 0.9)}
    record.results["attacks"] = attack_report(accuracy).to_dict()
    assert ImmunizationRecord.from_dict(record.to_dict()) == record


@pytest.mark.parametrize(
    ("path", "value"), [(path, value) for path, values in PLACES.items() for value in values], ids=repr
)
def test_what_no_run_writes_is_refused_and_named(path, value):
    values = planted(path, copy.deepcopy(value))
    with pytest.raises(ValueError, match=r"cannot be|must be|is missing|no mapping|attack") as caught:
        ImmunizationRecord.from_dict(values)
    message = str(caught.value)
    assert "\n" not in message
    assert path.split("/")[0] in message or "attack" in message


def test_what_passes_can_be_shown():
    """Every value of the record taken away in turn: refused, or shown without it."""

    def places(values, path=()):
        for key, value in values.items():
            yield (*path, key)
            if isinstance(value, dict) and key not in ("files", "spectra"):
                yield from places(value, (*path, key))

    found = list(places(json.loads(text())))
    assert len(found) > 400
    shown = 0
    for path in found:
        values = json.loads(text())
        at = values
        for key in path[:-1]:
            at = at[key]
        del at[path[-1]]
        try:
            record = ImmunizationRecord.from_dict(values)
        except ValueError:
            continue
        create_model_card(record, "me/immune")
        shown += 1
    assert shown > 20
