"""Whatever a stranger publishes is served or refused in one line: nothing runs, nothing breaks, memory is bounded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hostile import CASES, SERVED

#: GiB of one process that meets all of them, libraries and models of the tests included.
MOST_MEMORY = 2.0


@pytest.fixture(scope="module")
def met(tmp_path_factory):
    """Every case met by the command line, in one process: name → what came of it."""
    tests = Path(__file__).parent
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)]),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    given = [sys.executable, str(tests / "hostile.py"), str(tmp_path_factory.mktemp("hostile"))]
    ran = subprocess.run(given, capture_output=True, text=True, env=environment, timeout=1800)
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(found) == len(CASES), ran.stderr[-2000:]
    return {one["name"]: one for one in found}


def test_there_are_enough_of_them():
    assert len(CASES) >= 150
    assert set(CASES) >= SERVED


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_in_one_line_and_nothing_runs(met, name):
    one = met[name]
    assert not one["executed"]
    assert "Traceback" not in one["error"], one["error"]
    if name in SERVED:
        assert one["status"] == 0
    else:
        assert one["status"] == 1
        assert one["last"].startswith("hf-immunize: ")
        assert len(one["last"]) < 1000


def test_memory_is_bounded(met):
    assert max(one["peak"] for one in met.values()) < MOST_MEMORY
