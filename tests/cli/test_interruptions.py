"""Runs stopped at random moments of training, checkpointing, measuring and saving end as if they had never stopped."""

from __future__ import annotations

import os
import signal

import pytest
from kills import drawn, finished_after, options, outcome, run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")

#: With a fit, dropout and evaluations: what a seed runs, in turn.
KINDS = [(1, 1, 1), (0, 1, 1), (1, 0, 0), (0, 0, 1), (0, 1, 0), (1, 1, 0), (1, 0, 1), (0, 0, 0)]


def training_of(kind, world, folder):
    return options(world, folder / "out", **dict(zip(("fit", "dropout", "evaluation"), kind, strict=True)))


@pytest.fixture(scope="module")
def uninterrupted(world, tmp_path_factory):
    """What a run of a kind comes to in one piece, and the moments that it has."""
    known = {}

    def of(kind):
        if kind not in known:
            folder = tmp_path_factory.mktemp("whole")
            status, moments = run(training_of(kind, world, folder), folder.with_suffix(".log"))
            assert status == 0, folder.with_suffix(".log").read_text()[-4000:]
            known[kind] = outcome(folder / "out"), moments
        return known[kind]

    return of


def check(seed, kind, world, folder, uninterrupted):
    whole, moments = uninterrupted(kind)
    stops, log = drawn(seed, moments), folder.with_suffix(".log")
    found = finished_after(training_of(kind, world, folder), log, stops)
    told = f"{kind}, {stops}: {found}"
    assert found[-1] == 0, f"{told}\n{log.read_text()[-4000:]}"
    # A handled signal may come too late to stop anything.
    assert all(status in (-signal.SIGKILL, 130, 143, 0) for status in found), f"{told}\n{log.read_text()[-4000:]}"
    ended = outcome(folder / "out")
    for part, value in whole.items():
        assert ended[part] == value, f"{told}: {part}"


@pytest.mark.parametrize("seed", range(10))
def test_a_run_that_was_stopped_ends_as_one_that_was_not(seed, world, tmp_path, uninterrupted):
    check(seed, KINDS[seed % 3], world, tmp_path, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 210))
def test_two_hundred_more(seed, world, tmp_path, uninterrupted):
    check(seed, KINDS[seed % len(KINDS)], world, tmp_path, uninterrupted)
