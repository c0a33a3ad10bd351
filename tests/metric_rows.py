"""Rows of two tasks under two models for the metric, its folder, and how a result is compared."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from hf_immunize.metrics.load import load_rir

FOLDER = Path(inspect.getfile(load_rir)).parent / "rir"
TASKS = ("primary", "harmful")


def take(rows, part):
    return {name: column[part] for name, column in rows.items()}


def check(result, expected):
    assert result.keys() == expected.keys()
    for name, value in expected.items():
        assert type(result[name]) is type(value)
        assert result[name] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value), name


def start(code, *arguments, **environment):
    # The tests may run from a checkout that is not installed.
    paths = [str(FOLDER.parents[2]), os.environ.get("PYTHONPATH", "")]
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=os.environ | environment, **pipes)


def output(process):
    """The lines a process printed, once it has ended well."""
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return printed.splitlines()
