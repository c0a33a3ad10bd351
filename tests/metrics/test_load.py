"""The RIR metric is loaded from the installed package, with the options of `evaluate.load`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_immunize.metrics.load import load_rir

SQUARE, STRETCHED = [[2.0, 0.0], [0.0, 1.0]], [[4.0, 0.0], [0.0, 1.0]]


def test_it_needs_no_download_and_computes(tmp_path):
    rir = load_rir(cache_dir=str(tmp_path))
    rir.add_batch(immunized=STRETCHED, initial=SQUARE, task="harmful")
    rir.add_batch(immunized=SQUARE, initial=SQUARE, task="primary")
    assert rir.compute()["rir"] == pytest.approx(4.0)


def test_options_reach_the_module(tmp_path):
    rir = load_rir(cache_dir=str(tmp_path), experiment_id="mine", num_process=3, process_id=2, precision="bfloat16")
    assert (rir.experiment_id, rir.num_process, rir.process_id) == ("mine", 3, 2)
    assert "bfloat16" in str(rir.precision)


def test_each_call_gives_a_module_of_its_own(tmp_path):
    one, other = load_rir(cache_dir=str(tmp_path)), load_rir(cache_dir=str(tmp_path))
    one.add_batch(immunized=STRETCHED, initial=SQUARE, task="harmful")
    with pytest.raises(ValueError, match="No rows yet"):
        other.compute()


def test_a_cache_that_cannot_be_written_is_named():
    environment = {**os.environ, "HF_HOME": "/proc/none", "PYTHONPATH": str(Path(__file__).parents[2])}
    for name in ("HF_MODULES_CACHE", "HF_EVALUATE_CACHE", "HF_METRICS_CACHE"):
        environment.pop(name, None)
    code = "from hf_immunize import load_rir; load_rir()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "InputError: The cache of `evaluate` cannot be written" in done.stderr.strip().splitlines()[-1]
    assert "Set HF_HOME" in done.stderr
