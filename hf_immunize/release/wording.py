"""Whether two texts say the same figures and verdicts, although an earlier template put them in other words."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["Said", "other_figures", "verdict_words"]

#: A verdict in a card or in a report, the longest first.
_VERDICTS = (
    "undecided, θ0 itself hardly helps|not measured; assume that it succeeds|held back in part|not held back|held back|"
    "held|weakened|broken|undecided|not tried|not reached"
)
_POWER = r"\d+[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+"
_NUMBER = rf"(?<![\w.])(?:{_POWER}|[-+−]?\d+(?:,\d{{3}})*(?:\.\d+)?(?:e[+-]?\d+| × {_POWER})?)"
#: A commit, or the version of a library: the same or another, whatever the number.
_NAMED = r"\b[0-9a-f]{40}\b|(?<![\w.])\d+(?:\.\d+){2,}"
_FIGURE = re.compile(rf"{_NAMED}|{_NUMBER}|\b(?:{_VERDICTS})\b")
_PLAIN = str.maketrans("−⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "--0123456789", ",")
#: Sentences of this many letters that share this much are one sentence in two wordings.
_LONG, _ALIKE = 20, 0.8


class Said(NamedTuple):
    """A figure that two texts do not share.

    Attributes:
        where: the sentence, or the row and the column.
        given: what stands there.
        expected: what would stand there; None where the other text has no such place, and no such figure.
    """

    where: str
    given: str
    expected: str | None


class _Place(NamedTuple):
    """Where figures stand: a cell by head of table, column and row, or a sentence by its words; numbered."""

    table: tuple[str, ...]
    column: str
    words: str
    nth: int = 0

    def __str__(self) -> str:
        return ", ".join(one for one in (self.words, self.column) if one)


def other_figures(given: str, own: str, record: Mapping[str, Any]) -> Iterator[Said]:
    """What ``given`` says otherwise than ``own``, a text of the same record that is known to be right.

    Figures are compared at their places: the cells of tables by the names of row and column, those of a sentence by
    its words. Where a template words a sentence otherwise, the sentence most like it is taken; where there is none, a
    figure must be one of the record, rounded as it stands there. What ``own`` says beyond ``given`` is no difference.

    Args:
        given: Markdown.
        own: Markdown.
        record: what both are of, as plain values.
    """
    wanted = _figures(own)
    found = _figures(given, list(dict.fromkeys(place.table for place in wanted if place.table)))
    words = {place.words: place for place in wanted if not place.table and place not in found}
    known = {one for figures in wanted.values() for one in figures}
    values = list(_values(record))
    for place, figures in found.items():
        other = wanted.get(place)
        if other is None and not place.table and len(place.words) >= _LONG:
            near = difflib.get_close_matches(place.words, list(words), n=1, cutoff=_ALIKE)
            other = wanted[words[near[0]]] if near else None
        if other is not None and len(other) == len(figures):
            pairs = zip(figures, other, strict=True)
            yield from (Said(str(place), one, two) for one, two in pairs if not _agree(one, two))
        else:
            yield from (
                Said(str(place), one, None) for one in figures if one not in known and not _rounded(one, values)
            )


def verdict_words(text: str) -> list[str]:
    """The verdicts that a text prints in bold, in their order."""
    return re.findall(rf"\*\*({_VERDICTS})\*\*", text)


def _figures(text: str, tables: Sequence[tuple[str, ...]] = ()) -> dict[_Place, tuple[str, ...]]:
    """Place → its figures, for every place that has any; a table is that of ``tables`` which is most like it."""
    seen: Counter[_Place] = Counter()
    found: dict[_Place, tuple[str, ...]] = {}
    header: tuple[str, ...] = ()
    for line in text.splitlines():
        plain = re.sub(r"\*\*|^\s*(?:[>#-]+ )+", "", line).strip()
        if not plain.startswith("|"):
            header = ()
            parts = [(_Place((), "", _FIGURE.sub("#", one)), one) for one in re.split(r"(?<=[.!?;])\s+", plain)]
        else:
            row = tuple(one.strip() for one in re.split(r"(?<!\\)\|", plain)[1:-1])
            new, header = not header, header or row
            if new or set("".join(row)) <= set("-: "):
                continue
            table = _most_like(header, tables)
            words = _FIGURE.sub("#", row[0])
            parts = [(_Place(table, column, words), one) for column, one in zip(header, row, strict=False)]
        for place, content in parts:
            counted = place._replace(nth=seen[place])
            seen[place] += 1
            if figures := tuple(_FIGURE.findall(content)):
                found[counted] = figures
    return found


def _most_like(header: tuple[str, ...], tables: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The head of the table that begins as this one does and shares the most columns with it; else this one."""
    near = [one for one in tables if one[0] == header[0]]
    return max(near, key=lambda one: len({*one} & {*header}) / len({*one} | {*header}), default=header)


def _values(values: Any) -> Iterator[float | str]:
    if isinstance(values, Mapping):
        for key, one in values.items():
            yield from _values(key)
            yield from _values(one)
    elif isinstance(values, (list, tuple)):
        for one in values:
            yield from _values(one)
    elif isinstance(values, str):
        yield from _FIGURE.findall(values)
    elif isinstance(values, (int, float)) and not isinstance(values, bool):
        yield float(values)


def _agree(given: str, expected: str) -> bool:
    """Whether two figures are one, perhaps rounded to other digits."""
    one, two = _number(given), _number(expected)
    if one is None or two is None or given == expected:
        return given == expected
    if one[1] == two[1]:
        return one == two
    return abs(one[0] - two[0]) <= max(one[1], two[1])


def _rounded(given: str, values: list[float | str]) -> bool:
    """Whether a figure is one of the record's, as it is or as a percentage."""
    number = _number(given)
    if given in values or number is None:
        return given in values
    numbers = [one for one in values if isinstance(one, float)]
    return any(abs(number[0] - scale * one) <= number[1] for one in numbers for scale in (1, 100))


def _number(figure: str) -> tuple[float, float] | None:
    """The value of a figure and half a unit of its last digit; None of a word."""
    mantissa, _, power = re.sub(r"(?: × |^)10(?=[⁻⁰¹²³⁴⁵⁶⁷⁸⁹])", "e", figure).translate(_PLAIN).partition("e")
    mantissa = mantissa or "1"
    try:
        exponent = int(power or 0)
        unit = 10.0 ** (exponent - len(mantissa.partition(".")[2]))
        return float(f"{mantissa}e{exponent}"), 0.5 * unit * (1 + 1e-9)
    except (ValueError, OverflowError):
        return None
