"""What a record can hold: the structure that cards and tables read, and the range of every figure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from hf_immunize.attacks.flags import FLAGS
from hf_immunize.attacks.report import CEILINGS, MODELS, AttackReport
from hf_immunize.attacks.verdict import KINDS
from hf_immunize.errors import InputError
from hf_immunize.release.shapes import (
    Check,
    a_list,
    a_number,
    budget,
    each,
    mapping_of,
    maybe,
    one_of,
    refuse_unless,
    steps,
    text,
    unless_empty,
)
from hf_immunize.spectra.ratio import SIGN

__all__ = ["check_record"]


def check_record(values: Any) -> None:
    """Refuses what no run writes: an accuracy of 7.5, a ratio below zero, a table with a hole, a list for a name.

    Args:
        values: of a record as plain values, from anywhere; numbers that are not finite as numbers.

    Raises:
        InputError: with the place and what stands there.
    """
    _RECORD(values, "record")
    attacks = values.get("results", {}).get("attacks")
    if attacks:
        _check_tables(attacks, "results.attacks")


def _check_tables(attacks: Mapping[str, Any], place: str) -> None:
    """Each table has every model, and every model the same budgets."""
    unknown = set(attacks) - {one.name for one in fields(AttackReport)}
    refuse_unless(not unknown, place, f"it has no {', '.join(map(str, unknown))}"[:200])
    names = list(attacks["attackers"])
    refuse_unless(bool(names), f"{place}.attackers", "none")
    for part in ("recovery", "slowdown"):
        refuse_unless(sorted(attacks[part]) == sorted(names), f"{place}.{part}", "other attackers than attackers has")
    models = set(attacks["attackers"][names[0]]["accuracy"])
    refuse_unless({"initial", "immunized"} <= models, f"{place}.attackers", "no attack on initial and immunized")
    tables = {f"attackers.{name}": one["accuracy"] for name, one in attacks["attackers"].items()}
    tables |= {f"worst_case.{kind}": one for kind, one in attacks["worst_case"].items()}
    for name, by_model in tables.items():
        refuse_unless(set(by_model) == models, f"{place}.{name}", f"not the models {', '.join(sorted(models))}")
        budgets = [{count: sorted(cells) for count, cells in one.items()} for one in by_model.values()]
        same = all(one == budgets[0] for one in budgets) and budgets[0] and all(budgets[0].values())
        refuse_unless(bool(same), f"{place}.{name}", "not the same budgets on every model")
    kinds = {one["kind"] for one in attacks["attackers"].values()}
    for part in ("worst_case", "cost_ratio", *(["trials"] if attacks.get("trials") else [])):
        refuse_unless(set(attacks[part]) == kinds, f"{place}.{part}", f"not the kinds {', '.join(sorted(kinds))}")
    for kind, by_model in (attacks.get("trials") or {}).items():
        steps_of = [sorted(one) for one in by_model.values()]
        same = set(by_model) == models and all(one == steps_of[0] and one for one in steps_of)
        refuse_unless(same, f"{place}.trials.{kind}", "not the same steps on every model")
    if attacks.get("uplift"):
        _check_uplift(attacks, models, f"{place}.uplift")


def _check_uplift(attacks: Mapping[str, Any], models: set[str], place: str) -> None:
    """It has the models that are no ceilings, all attackers, and the budgets of the worst case."""
    uplift, names = attacks["uplift"], set(attacks["attackers"])
    fits = set(uplift["ceilings"]) == models & set(CEILINGS) and set(uplift["attackers"]) == names
    refuse_unless(fits and set(uplift["worst_case"]) == set(attacks["worst_case"]), place, "not what was attacked")
    for kind, by_model in uplift["worst_case"].items():
        refuse_unless(set(by_model) == models - set(CEILINGS), f"{place}.{kind}", "other models")
        tables = [
            *by_model.values(),
            *(one for name, one in uplift["attackers"].items() if attacks["attackers"][name]["kind"] == kind),
        ]
        budgets = {count: set(cells) for count, cells in attacks["worst_case"][kind]["immunized"].items()}
        same = all({count: set(cells) for count, cells in one.items()} == budgets for one in tables)
        refuse_unless(same, f"{place}.{kind}", "other budgets than those of the worst case")


_SHARE = a_number(0, 1)
_COUNT = a_number(0, 2**53, whole=True)
_RATIO = a_number(0)
_BOUND = one_of(*SIGN)
_FLAG = one_of(True, False)
_MODEL = one_of(*MODELS)
_KIND = one_of(*KINDS)
_FOUR = tuple(f"{model}_{task}" for model in ("immunized", "initial") for task in ("harmful", "primary"))
_RATIOS = ("rir", "rir_i", "rir_ii")

_GROUPED = mapping_of({"mean": _RATIO, "bound": _BOUND}, spread=maybe(_RATIO), median=maybe(_RATIO))
_ALL_SAMPLES = mapping_of(
    {
        **dict.fromkeys(_RATIOS, _RATIO),
        **{f"{name}_bound": _BOUND for name in _RATIOS},
        "precision_limited": _FLAG,
        **{f"{name}_{part}": _COUNT for name in _FOUR for part in ("rank", "n_samples", "n_features")},
        **{f"{name}_condition_number": a_number(1) for name in _FOUR},
    }
)
_RIR = mapping_of(
    {
        "protocol": mapping_of({"groups": _COUNT, "group_size": _COUNT}),
        **dict.fromkeys(_RATIOS, _GROUPED),
        "ranks": mapping_of(dict.fromkeys(_FOUR, _COUNT)),
        "precision_limited": _FLAG,
        "n_harmful": _COUNT,
        "n_primary": _COUNT,
    },
    all_samples=maybe(_ALL_SAMPLES),
)
_SPECTRA = mapping_of({"ranks": each(_COUNT)}, **dict.fromkeys(_FOUR, a_list(_SHARE)))
_CELL = {"mean": _SHARE, "low": _SHARE, "high": _SHARE}
_STEPS = maybe(budget)
_OUTCOME = one_of("held", "weakened", "broken", "undecided", "not tried")
_COST = mapping_of({"initial": _STEPS, "immunized": _STEPS, "reached": _FLAG, "ratio": maybe(_RATIO), "target": _SHARE})
_REACHED = a_number(none=True)


def _by_model(cell: Check) -> Check:
    """Model → samples → steps → cell."""
    return each(each(each(cell, budget), budget), _MODEL)


def _selectivity(values: Any, place: str) -> None:
    mean, against = mapping_of({"mean": _SHARE}), one_of("control", "initial")
    if values:
        needed = {**dict.fromkeys(("initial", "immunized"), mean), "cost": a_number(-1, 1), "against": against}
        further = dict.fromkeys(("control", *CEILINGS), mean)
        mapping_of(needed, **further, **{"fine-tuning": each(mapping_of(needed, **further), steps)})(values, place)


def _share_left(value: Any, place: str) -> None:
    try:
        _SHARE(float(value), place)
    except ValueError:
        raise InputError(f"{place} cannot be: {str(value)[:60]!r} is no share.") from None


def _exact_steps(values: Any, place: str) -> None:
    each(each(a_number(0, whole=True, none=True), _share_left), _MODEL)(values, place)
    shares = [sorted(one) for one in values.values()]
    refuse_unless(not values or "initial" in values, place, "no steps on initial")
    refuse_unless(all(one == shares[0] for one in shares), place, "not the same shares on every model")


_VERDICT = mapping_of(
    {
        "text": text,
        "outcome": mapping_of(dict.fromkeys(KINDS, _OUTCOME)),
        "thresholds": mapping_of(dict.fromkeys(("broken", "held", "slowed"), a_number())),
    }
)
_UPLIFT = {
    "value": a_number(-1, 1),
    "low": a_number(-1, 1),
    "high": a_number(-1, 1),
    "ceiling": one_of(*CEILINGS),
    "attacker": text,
}
_SEARCH = mapping_of(
    {
        "tried": _COUNT,
        "improvements": a_list(
            mapping_of({"trial": _COUNT, "attacker": text, "setting": text, "validation": _SHARE, "accuracy": _SHARE})
        ),
    }
)
_ATTACKS = mapping_of(
    {
        "attackers": each(mapping_of({"kind": _KIND, "accuracy": _by_model(mapping_of(_CELL))})),
        "worst_case": each(_by_model(mapping_of(_CELL | {"attacker": text})), _KIND),
        "recovery": each(
            mapping_of({"value": _REACHED, "low": _REACHED, "high": _REACHED, "samples": budget, "steps": _COUNT})
        ),
        "slowdown": each(_COST),
        "cost_ratio": each(each(_COST, one_of("steps", "samples")), _KIND),
        "selectivity": _selectivity,
        "exact_steps": _exact_steps,
        "verdict": _VERDICT,
        "chance": _SHARE,
        "reference": one_of("scratch", "chance"),
        "n_train": _COUNT,
        "n_test": _COUNT,
        "budgets": mapping_of({"seeds": a_list(a_number(whole=True))}),
        "notes": a_list(text),
    },
    uplift=unless_empty(
        mapping_of(
            {
                "ceilings": a_list(one_of(*CEILINGS)),
                "worst_case": each(_by_model(mapping_of(_UPLIFT)), _KIND),
                "attackers": each(each(each(mapping_of(_UPLIFT), budget), budget)),
            }
        )
    ),
    trials=each(each(each(_SEARCH, steps), _MODEL), _KIND),
    flags=maybe(each(text, one_of(*FLAGS))),
    seconds=each(_RATIO),
)


_PAIR = {"initial": _SHARE, "immunized": _SHARE}
_RESULTS = mapping_of(
    {},
    primary_accuracy=unless_empty(mapping_of(_PAIR, control=_SHARE, primary_only=_SHARE)),
    rir=unless_empty(mapping_of({"immunized": _RIR}, control=_RIR)),
    spectra=unless_empty(_SPECTRA),
    attacks=unless_empty(_ATTACKS),
)
_LINE = maybe(text)
_NUMBER_OF = maybe(_COUNT)


def _commit(value: Any, place: str) -> None:
    fits = value is None or (isinstance(value, str) and re.fullmatch(r"[\w./-]{1,100}", value) is not None)
    refuse_unless(fits, place, f"{str(value)[:60]!r} is no revision")


_DATA = mapping_of(
    {"name": text},
    revision=_commit,
    license=_LINE,
    hub_id=_LINE,
    config=_LINE,
    split=_LINE,
    eval_split=_LINE,
    n_train=_NUMBER_OF,
    n_eval=_NUMBER_OF,
    classes=maybe(a_list(text)),
    source=maybe(one_of("hub", "local", "package", "object")),
    fingerprint=_LINE,
    eval_fingerprint=_LINE,
    arguments=mapping_of(
        {},
        **dict.fromkeys(("split", "eval_split", "config", "image_column", "label_column", "package"), _LINE),
        **dict.fromkeys(("max_train_samples", "max_eval_samples"), _NUMBER_OF),
        labels=one_of("needed", "optional", "unused"),
        seed=_COUNT,
        skip_corrupt=_FLAG,
        streaming=_FLAG,
        turned=_FLAG,
        classes=a_list(_COUNT),
    ),
)
_SETTINGS = each(lambda value, place: None)
_BUDGET = mapping_of(
    {
        "max_accuracy_drop": a_number(0),
        "held_out": _COUNT,
        "initial_accuracy": _SHARE,
        "final_accuracy": _SHARE,
        "kept_step": _NUMBER_OF,
        "course": a_list(_SETTINGS),
    }
)
_RECORD = mapping_of(
    {"base_model": text, "primary": _DATA, "harmful": _DATA},
    benign=maybe(_DATA),
    base_model_revision=_commit,
    architecture=_LINE,
    command=_LINE,
    license=_LINE,
    objective=_SETTINGS,
    trainable=mapping_of({}, n_parameters=_COUNT, n_total=_COUNT),
    training=mapping_of({}, budget=_BUDGET),
    seeds=_SETTINGS,
    versions=each(text),
    files=each(text),
    input_shape=maybe(a_list(_COUNT)),
    results=_RESULTS,
)
