"""Checks of plain values from anywhere: numbers within bounds, texts, lists and mappings, refused with their place."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from hf_immunize.errors import InputError

__all__ = [
    "Check",
    "a_list",
    "a_number",
    "budget",
    "each",
    "mapping_of",
    "maybe",
    "one_of",
    "refuse_unless",
    "steps",
    "text",
    "unless_empty",
]

#: Raises InputError where a value, named by the second argument, is none that stands there.
Check = Callable[[Any, str], None]


def refuse_unless(holds: bool, place: str, found: str) -> None:
    """Raises InputError, with the place and what stands there, unless it holds."""
    if not holds:
        raise InputError(f"{place} cannot be: {found}.")


def a_number(low: float = -math.inf, high: float = math.inf, *, whole: bool = False, none: bool = False) -> Check:
    """A number within bounds, which belong to it; never NaN."""

    def check(value: Any, place: str) -> None:
        if value is None and none:
            return
        fits = isinstance(value, (int,) if whole else (int, float)) and not isinstance(value, bool)
        kind = "a whole number" if whole else "a number"
        refuse_unless(fits and low <= value <= high, place, f"{str(value)[:60]!r} is not {kind} from {low} to {high}")

    return check


def one_of(*allowed: Any) -> Check:
    """One of the allowed values."""

    def check(value: Any, place: str) -> None:
        refuse_unless(value in allowed, place, f"{str(value)[:60]!r} is none of {', '.join(map(str, allowed))}")

    return check


def text(value: Any, place: str) -> None:
    """A text."""
    refuse_unless(isinstance(value, str), place, f"{str(value)[:60]!r} is no text")


def budget(value: Any, place: str) -> None:
    """A number of samples or steps in digits, or ``all``."""
    fits = isinstance(value, str) and (value == "all" or (value.isascii() and value.isdigit() and len(value) < 16))
    refuse_unless(fits, place, f"{str(value)[:60]!r} is no budget")


def steps(value: Any, place: str) -> None:
    """A number of steps in digits."""
    budget(value, place)
    refuse_unless(value != "all", place, "'all' is no number of steps")


def maybe(check: Check) -> Check:
    """None, or what passes."""
    return lambda value, place: None if value is None else check(value, place)


def unless_empty(check: Check) -> Check:
    """Nothing, whatever its kind, or what passes."""
    return lambda value, place: check(value, place) if value else None


def each(check: Check, key: Check = text) -> Check:
    """A mapping whose keys and values all pass."""

    def checked(values: Any, place: str) -> None:
        refuse_unless(isinstance(values, Mapping), place, "no mapping")
        for name, value in values.items():
            key(name, f"{place}, key {str(name)[:60]!r}")
            check(value, f"{place}.{name}")

    return checked


def a_list(check: Check) -> Check:
    """A list whose values all pass."""

    def checked(values: Any, place: str) -> None:
        refuse_unless(isinstance(values, (list, tuple)), place, "no list")
        for index, value in enumerate(values):
            check(value, f"{place}[{index}]")

    return checked


def mapping_of(parts: Mapping[str, Check], **optional: Check) -> Check:
    """A mapping with all of ``parts`` and perhaps the optional ones; what else it holds is shown nowhere."""

    def checked(values: Any, place: str) -> None:
        refuse_unless(isinstance(values, Mapping), place, "no mapping")
        missing = [name for name in parts if name not in values]
        refuse_unless(not missing, place, f"{', '.join(missing)} is missing")
        for name, check in {**parts, **optional}.items():
            if name in values:
                check(values[name], f"{place}.{name}")

    return checked
