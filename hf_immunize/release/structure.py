"""What a record can hold: the structure that cards and tables read, and the range of every figure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from hf_immunize.attacks.report import MODELS, AttackReport
from hf_immunize.attacks.verdict import KINDS
from hf_immunize.errors import InputError
from hf_immunize.spectra.ratio import SIGN

__all__ = ["check_record"]

#: Raises InputError where a value, named by the second argument, is none that stands there.
Check = Callable[[Any, str], None]


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
    _refuse_unless(not unknown, place, f"it has no {', '.join(map(str, unknown))}"[:200])
    names = list(attacks["attackers"])
    _refuse_unless(bool(names), f"{place}.attackers", "none")
    for part in ("recovery", "slowdown"):
        _refuse_unless(sorted(attacks[part]) == sorted(names), f"{place}.{part}", "other attackers than attackers has")
    models = set(attacks["attackers"][names[0]]["accuracy"])
    _refuse_unless({"initial", "immunized"} <= models, f"{place}.attackers", "no attack on initial and immunized")
    tables = {f"attackers.{name}": one["accuracy"] for name, one in attacks["attackers"].items()}
    tables |= {f"worst_case.{kind}": one for kind, one in attacks["worst_case"].items()}
    for name, by_model in tables.items():
        _refuse_unless(set(by_model) == models, f"{place}.{name}", f"not the models {', '.join(sorted(models))}")
        budgets = [{count: sorted(cells) for count, cells in one.items()} for one in by_model.values()]
        same = all(one == budgets[0] for one in budgets) and budgets[0] and all(budgets[0].values())
        _refuse_unless(bool(same), f"{place}.{name}", "not the same budgets on every model")
    kinds = {one["kind"] for one in attacks["attackers"].values()}
    for part in ("worst_case", "cost_ratio"):
        _refuse_unless(set(attacks[part]) == kinds, f"{place}.{part}", f"not the kinds {', '.join(sorted(kinds))}")


def _refuse_unless(holds: bool, place: str, found: str) -> None:
    if not holds:
        raise InputError(f"{place} cannot be: {found}.")


def _number(low: float = -math.inf, high: float = math.inf, *, whole: bool = False, none: bool = False) -> Check:
    """A number within bounds, which belong to it; never NaN."""

    def check(value: Any, place: str) -> None:
        if value is None and none:
            return
        fits = isinstance(value, (int,) if whole else (int, float)) and not isinstance(value, bool)
        kind = "a whole number" if whole else "a number"
        _refuse_unless(fits and low <= value <= high, place, f"{str(value)[:60]!r} is not {kind} from {low} to {high}")

    return check


def _one_of(*allowed: Any) -> Check:
    def check(value: Any, place: str) -> None:
        _refuse_unless(value in allowed, place, f"{str(value)[:60]!r} is none of {', '.join(map(str, allowed))}")

    return check


def _text(value: Any, place: str) -> None:
    _refuse_unless(isinstance(value, str), place, f"{str(value)[:60]!r} is no text")


def _budget(value: Any, place: str) -> None:
    fits = isinstance(value, str) and (value == "all" or (value.isascii() and value.isdigit() and len(value) < 16))
    _refuse_unless(fits, place, f"{str(value)[:60]!r} is no budget")


def _maybe(check: Check) -> Check:
    return lambda value, place: None if value is None else check(value, place)


def _each(check: Check, key: Check = _text) -> Check:
    """A mapping whose keys and values all pass."""

    def checked(values: Any, place: str) -> None:
        _refuse_unless(isinstance(values, Mapping), place, "no mapping")
        for name, value in values.items():
            key(name, f"{place}, key {str(name)[:60]!r}")
            check(value, f"{place}.{name}")

    return checked


def _list(check: Check) -> Check:
    def checked(values: Any, place: str) -> None:
        _refuse_unless(isinstance(values, (list, tuple)), place, "no list")
        for index, value in enumerate(values):
            check(value, f"{place}[{index}]")

    return checked


def _of(parts: Mapping[str, Check], **optional: Check) -> Check:
    """A mapping with all of ``parts`` and perhaps the optional ones; what else it holds is shown nowhere."""

    def checked(values: Any, place: str) -> None:
        _refuse_unless(isinstance(values, Mapping), place, "no mapping")
        missing = [name for name in parts if name not in values]
        _refuse_unless(not missing, place, f"{', '.join(missing)} is missing")
        for name, check in {**parts, **optional}.items():
            if name in values:
                check(values[name], f"{place}.{name}")

    return checked


_SHARE = _number(0, 1)
_COUNT = _number(0, 2**53, whole=True)
_RATIO = _number(0)
_BOUND = _one_of(*SIGN)
_FLAG = _one_of(True, False)
_MODEL = _one_of(*MODELS)
_KIND = _one_of(*KINDS)
_FOUR = tuple(f"{model}_{task}" for model in ("immunized", "initial") for task in ("harmful", "primary"))
_RATIOS = ("rir", "rir_i", "rir_ii")

_GROUPED = _of({"mean": _RATIO, "bound": _BOUND}, spread=_maybe(_RATIO), median=_maybe(_RATIO))
_ALL_SAMPLES = _of(
    {
        **dict.fromkeys(_RATIOS, _RATIO),
        **{f"{name}_bound": _BOUND for name in _RATIOS},
        "precision_limited": _FLAG,
        **{f"{name}_{part}": _COUNT for name in _FOUR for part in ("rank", "n_samples", "n_features")},
        **{f"{name}_condition_number": _number(1) for name in _FOUR},
    }
)
_RIR = _of(
    {
        "protocol": _of({"groups": _COUNT, "group_size": _COUNT}),
        **dict.fromkeys(_RATIOS, _GROUPED),
        "ranks": _of(dict.fromkeys(_FOUR, _COUNT)),
        "precision_limited": _FLAG,
        "n_harmful": _COUNT,
        "n_primary": _COUNT,
    },
    all_samples=_maybe(_ALL_SAMPLES),
)
_SPECTRA = _of({"ranks": _each(_COUNT)}, **dict.fromkeys(_FOUR, _list(_SHARE)))
_CELL = {"mean": _SHARE, "low": _SHARE, "high": _SHARE}
_STEPS = _maybe(_budget)
_OUTCOME = _one_of("held", "weakened", "broken", "undecided", "not tried")
_COST = _of({"initial": _STEPS, "immunized": _STEPS, "reached": _FLAG, "ratio": _maybe(_RATIO), "target": _SHARE})
_REACHED = _number(none=True)


def _by_model(cell: Check) -> Check:
    """Model → samples → steps → cell."""
    return _each(_each(_each(cell, _budget), _budget), _MODEL)


def _selectivity(values: Any, place: str) -> None:
    mean, against = _of({"mean": _SHARE}), _one_of("control", "initial")
    if values:
        _of(
            {**dict.fromkeys(("initial", "immunized"), mean), "cost": _number(-1, 1), "against": against},
            control=mean,
            scratch=mean,
        )(values, place)


def _share_left(value: Any, place: str) -> None:
    try:
        _SHARE(float(value), place)
    except ValueError:
        raise InputError(f"{place} cannot be: {str(value)[:60]!r} is no share.") from None


def _exact_steps(values: Any, place: str) -> None:
    _each(_each(_number(0, whole=True, none=True), _share_left), _MODEL)(values, place)
    shares = [sorted(one) for one in values.values()]
    _refuse_unless(not values or "initial" in values, place, "no steps on initial")
    _refuse_unless(all(one == shares[0] for one in shares), place, "not the same shares on every model")


_VERDICT = _of(
    {
        "text": _text,
        "outcome": _of(dict.fromkeys(KINDS, _OUTCOME)),
        "thresholds": _of(dict.fromkeys(("broken", "held", "slowed"), _number())),
    }
)
_ATTACKS = _of(
    {
        "attackers": _each(_of({"kind": _KIND, "accuracy": _by_model(_of(_CELL))})),
        "worst_case": _each(_by_model(_of(_CELL | {"attacker": _text})), _KIND),
        "recovery": _each(
            _of({"value": _REACHED, "low": _REACHED, "high": _REACHED, "samples": _budget, "steps": _COUNT})
        ),
        "slowdown": _each(_COST),
        "cost_ratio": _each(_each(_COST, _one_of("steps", "samples")), _KIND),
        "selectivity": _selectivity,
        "exact_steps": _exact_steps,
        "verdict": _VERDICT,
        "chance": _SHARE,
        "reference": _one_of("scratch", "chance"),
        "n_train": _COUNT,
        "n_test": _COUNT,
        "budgets": _of({"seeds": _list(_number(whole=True))}),
        "notes": _list(_text),
    },
    seconds=_each(_RATIO),
)


def _unless_empty(check: Check) -> Check:
    return lambda value, place: check(value, place) if value else None


_PAIR = {"initial": _SHARE, "immunized": _SHARE}
_RESULTS = _of(
    {},
    primary_accuracy=_unless_empty(_of(_PAIR, control=_SHARE)),
    rir=_unless_empty(_of({"immunized": _RIR}, control=_RIR)),
    spectra=_unless_empty(_SPECTRA),
    attacks=_unless_empty(_ATTACKS),
)
_LINE = _maybe(_text)
_NUMBER_OF = _maybe(_COUNT)


def _commit(value: Any, place: str) -> None:
    fits = value is None or (isinstance(value, str) and re.fullmatch(r"[\w./-]{1,100}", value) is not None)
    _refuse_unless(fits, place, f"{str(value)[:60]!r} is no revision")


_DATA = _of(
    {"name": _text},
    revision=_commit,
    license=_LINE,
    hub_id=_LINE,
    config=_LINE,
    split=_LINE,
    eval_split=_LINE,
    n_train=_NUMBER_OF,
    n_eval=_NUMBER_OF,
    classes=_maybe(_list(_text)),
    source=_maybe(_one_of("hub", "local", "package", "object")),
    fingerprint=_LINE,
    eval_fingerprint=_LINE,
    arguments=_of(
        {},
        **dict.fromkeys(("split", "eval_split", "config", "image_column", "label_column", "package"), _LINE),
        **dict.fromkeys(("max_train_samples", "max_eval_samples"), _NUMBER_OF),
        labels=_one_of("needed", "optional", "unused"),
        seed=_COUNT,
        skip_corrupt=_FLAG,
        streaming=_FLAG,
        turned=_FLAG,
        classes=_list(_COUNT),
    ),
)
_SETTINGS = _each(lambda value, place: None)
_RECORD = _of(
    {"base_model": _text, "primary": _DATA, "harmful": _DATA},
    benign=_maybe(_DATA),
    base_model_revision=_commit,
    architecture=_LINE,
    command=_LINE,
    license=_LINE,
    objective=_SETTINGS,
    trainable=_of({}, n_parameters=_COUNT, n_total=_COUNT),
    training=_SETTINGS,
    seeds=_SETTINGS,
    versions=_each(_text),
    files=_each(_text),
    input_shape=_maybe(_list(_COUNT)),
    results=_RESULTS,
)
