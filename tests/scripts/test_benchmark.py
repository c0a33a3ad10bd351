"""The benchmark's table: figures beside what was asked, part by part, and gone on with where it stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import benchmark

    return benchmark


def test_a_figure_stands_beside_what_was_asked(benchmark):
    assert benchmark.figure("a", 1.04, "<= 1.05")["reached"] is True
    assert benchmark.figure("a", 1.06, "<= 1.05")["reached"] is False
    assert benchmark.figure("a", 7.9, ">= 8")["reached"] is False
    assert benchmark.figure("a", 8.1, ">= 8")["reached"] is True
    assert benchmark.figure("a", 1.0, "")["reached"] is None


def test_parts_are_kept_and_not_measured_twice(benchmark, monkeypatch, tmp_path, capsys):
    calls = []

    def part(name, value):
        return lambda: calls.append(name) or [benchmark.figure(f"figure of {name}", value, "<= 1.0")]

    def fails():
        raise ValueError("no such thing")

    known = {"broken": fails, "one": part("one", 0.5), "two": part("two", 2.0)}
    monkeypatch.setattr(benchmark, "parts", lambda *_: known)

    def run(*given):
        common = ["--output_dir", str(tmp_path), "--commit", "abc"]
        monkeypatch.setattr(sys, "argv", ["benchmark.py", *common, *given])
        benchmark.main()

    run("--only", "two")
    with pytest.raises(SystemExit, match=r"1 parts failed: broken: ValueError: no such thing"):
        run()
    assert calls == ["two", "one"]
    run("--only", "two", "--again")
    assert calls == ["two", "one", "two"]
    kept = json.loads((tmp_path / "benchmark.json").read_text())
    assert list(kept) == ["two", "one"]
    assert kept["one"]["commit"] == "abc"
    assert torch.__version__.startswith(kept["one"]["versions"]["torch"])
    page = (tmp_path / "README.md").read_text()
    assert "| figure of one | 0.5 | <= 1.0 |" in page
    assert "| figure of two | 2 | <= 1.0, not reached |" in page
    run("--only", "one", "--commit", "def")
    assert calls[-1] == "one"
    with pytest.raises(SystemExit):
        run("--only", "thre")
    assert "there are broken, one, two" in capsys.readouterr().err


def test_figures_of_another_machine_are_taken_over_and_make_a_plan(benchmark, monkeypatch, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"

    def row(value):
        return {"what": "a", "value": value, "asked": "", "reached": None}

    def part(hardware, *values):
        return {"commit": "abc", "hardware": hardware, "versions": {}, "rows": [row(one) for one in values]}

    own = {"decoding": part("a CPU, 1 threads", 100.0), "gpu-step": part("old", 1.0, 2.0)}
    other = {"gpu-step": part("a GPU, 2 threads", 1.0, 4000.0), "gpu-step-all": part("a GPU, 2 threads", 1.0, 1000.0)}
    for folder, kept in ((here, own), (there, other)):
        folder.mkdir()
        (folder / "benchmark.json").write_text(json.dumps(kept))
    monkeypatch.setattr(
        sys, "argv", ["benchmark.py", "--output_dir", str(here), "--add", str(there / "benchmark.json")]
    )
    benchmark.main()
    assert json.loads((here / "benchmark.json").read_text()) == own | other
    page = (here / "README.md").read_text()
    assert "775 GB" in page
    assert (
        "The last block trains: 0.18 hours an epoch on one a GPU in bf16 (4000 images a second), for which 40" in page
    )
    assert "All of it trains: 0.71 hours" in page


_WITHOUT_DATA_SETS = """
import runpy, sys
for name in ("datasets", "evaluate", "pyarrow", "pandas", "peft", "matplotlib"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
sys.path.insert(0, "scripts")
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_figures_of_a_gpu_need_no_package_that_reads_data(tmp_path):
    """On the CPU, with a tiny model: every part runs to its end."""
    given = ["--device", "cpu", "--small", "--repeats", "1", "--output_dir", str(tmp_path)]
    subprocess.run(
        [sys.executable, "-c", _WITHOUT_DATA_SETS, "scripts/benchmark_gpu.py", *given],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
    )
    kept = json.loads((tmp_path / "benchmark.json").read_text())
    rows = {name: part["rows"] for name, part in kept.items()}
    assert {name: len(one) for name, one in rows.items()} == {
        "gpu-matrix-rate": 1,
        "gpu-step": 3,
        "gpu-step-all": 3,
        "gpu-eigenproblem": 2,
        "gpu-ratio": 2,
    }
    assert all(row["value"] > 0 for one in rows.values() for row in one)
    # A step in which all trains does about three times the work of a forward; the last stage alone little more than it.
    work = [rows[name][2]["tera_operations_a_step"] for name in ("gpu-step-all", "gpu-step")]
    assert 2 < work[0] / work[1] < 3


def test_operations_of_a_run_are_those_of_its_layers(benchmark):
    """Of twelve blocks alike one trains, whose backward is two forwards.

    Queries, keys and values, three twelfths of it, are read of all five tokens; the rest of one.
    """
    found = benchmark.runs.operations_of_a_run("vit_tiny_patch16_224", 32)
    behind = 3 * (3 + 9 / 5) / 12
    assert found["value"] == pytest.approx((2 * 11 + 6 * behind) / (3 * (11 + 3)), rel=0.02)


@pytest.mark.slow
def test_whole_runs_and_ratios_run(benchmark):
    """With tiny sizes: what they say of speed means nothing."""
    cpu = torch.device("cpu")
    run = benchmark.runs.whole_run("resnet10t", 32, 16, 8, "<= 1.0", 1, cpu)
    assert run["immunize_s"] > 0 < run["plain_s"]
    assert benchmark.runs.throughput(1, 4) > 0
    rows = benchmark.measuring.ratio_over_extraction(24, 24, 1, cpu)
    assert [row["asked"] for row in rows] == ["<= 0.7", "<= 1.05", "<= 0.001", "<= 0.65", "<= 0.001"]
    assert all(row["value"] < 1e-3 for row in rows if row["asked"] == "<= 0.001")


def test_pictures_tell_their_classes_apart(benchmark):
    data = benchmark.pictures(60, 24, 3)
    brightness = torch.tensor([np.asarray(one.convert("L"), np.float32).mean() for one in data["image"]])
    labels = torch.tensor(data["label"])
    means = [brightness[labels == label].mean() for label in range(3)]
    assert means == sorted(means)
    assert data["image"][0].size == (24, 24)
