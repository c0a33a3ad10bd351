"""The examples in docstrings and for contributors do what they say: each is executed, except those marked ``+SKIP``."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import torch

import hf_immunize
from hf_immunize.objectives.registry import OBJECTIVES

#: The page of a Hub Space, which starts when it is imported.
APART = {"hf_immunize.metrics.rir.app"}
#: Executed examples there are at least: one that is lost, or newly skipped, is noticed.
FEWEST = 29
MODULES = sorted({one.name for one in pkgutil.walk_packages(hf_immunize.__path__, "hf_immunize.")} - APART)
PAGE = Path(__file__).parent.parent / ".github" / "CONTRIBUTING.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def examples(name: str) -> list[doctest.DocTest]:
    """The docstrings with examples of a module, and of what is defined in it."""
    module = importlib.import_module(name)
    return [one for one in doctest.DocTestFinder().find(module, extraglobs={"torch": torch}) if one.examples]


def executed(test: doctest.DocTest) -> int:
    return sum(not one.options.get(doctest.SKIP, False) for one in test.examples)


@pytest.mark.parametrize("name", MODULES)
def test_examples_do_what_they_say(name):
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in examples(name):
        runner.run(test, out=said.append)
    assert runner.failures == 0, "".join(said)


def test_no_example_is_lost():
    assert sum(executed(test) for name in MODULES for test in examples(name)) >= FEWEST


@pytest.mark.usefixtures("own_attacker")
@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_examples_for_contributors_do_what_they_say(number):
    known = set(OBJECTIVES)
    try:
        exec(compile(BLOCKS[number], f"{PAGE.name}, block {number}", "exec"), {"__name__": "contributing"})
    finally:
        # What an example registers is gone for the tests that follow.
        for name in set(OBJECTIVES) - known:
            del OBJECTIVES[name]


def test_every_way_of_adding_has_an_example():
    assert len(BLOCKS) == 3
