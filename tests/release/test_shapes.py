"""Plain values from anywhere: what passes, and what is refused with its place."""

from __future__ import annotations

import math

import pytest

from hf_immunize.release import shapes


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (shapes.a_number(0, 1), (0, 0.5, 1), (-0.1, 1.1, math.nan, "0.5", True, None)),
        (shapes.a_number(whole=True, none=True), (3, None), (3.5, "3")),
        (shapes.one_of("a", "b"), ("a",), ("c", None, [])),
        (shapes.text, ("",), (5, None)),
        (shapes.budget, ("all", "300"), ("3e5", "-1", 300, "²")),
        (shapes.steps, ("1000",), ("all", "x")),
        (shapes.maybe(shapes.text), (None, "x"), (5,)),
        (shapes.unless_empty(shapes.a_list(shapes.text)), (None, {}, ["x"]), ([5], "x")),
        (shapes.each(shapes.text), ({}, {"a": "b"}), ({"a": 5}, {5: "a"}, [])),
        (shapes.a_list(shapes.text), ([], ("a",)), ("a", [5])),
        (shapes.mapping_of({"a": shapes.text}, b=shapes.text), ({"a": "x", "c": 5},), ({}, {"a": "x", "b": 5}, "a")),
    ],
)
def test_what_fits_passes_and_the_rest_is_refused_with_its_place(check, good, bad):
    for value in good:
        check(value, "here")
    for value in bad:
        with pytest.raises(ValueError, match="here"):
            check(value, "here")
