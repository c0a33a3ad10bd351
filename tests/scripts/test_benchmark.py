"""The benchmark's table: figures beside what was asked, part by part, and gone on with where it stopped."""

from __future__ import annotations

import json
import sys
from pathlib import Path

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

    monkeypatch.setattr(benchmark, "parts", lambda *_: {"one": part("one", 0.5), "two": part("two", 2.0)})
    monkeypatch.setattr(benchmark, "_commit", lambda: "abc")

    def run(*given):
        monkeypatch.setattr(sys, "argv", ["benchmark.py", "--output_dir", str(tmp_path), *given])
        benchmark.main()

    run("--only", "two")
    run()
    assert calls == ["two", "one"]
    run("--only", "two", "--again")
    assert calls == ["two", "one", "two"]
    kept = json.loads((tmp_path / "benchmark.json").read_text())
    assert list(kept) == ["one", "two"]
    assert kept["one"]["commit"] == "abc"
    assert torch.__version__.startswith(kept["one"]["versions"]["torch"])
    page = (tmp_path / "README.md").read_text()
    assert "| figure of one | 0.5 | <= 1.0 |" in page
    assert "| figure of two | 2 | <= 1.0, not reached |" in page
    monkeypatch.setattr(benchmark, "_commit", lambda: "def")
    run("--only", "one")
    assert calls[-1] == "one"
    with pytest.raises(SystemExit):
        run("--only", "thre")
    assert "there are one, two" in capsys.readouterr().err


def test_pictures_tell_their_classes_apart(benchmark):
    data = benchmark.pictures(60, 24, 3)
    brightness = torch.tensor(
        [float(torch.tensor(list(one.convert("L").getdata())).float().mean()) for one in data["image"]]
    )
    labels = torch.tensor(data["label"])
    means = [brightness[labels == label].mean() for label in range(3)]
    assert means == sorted(means)
    assert data["image"][0].size == (24, 24)
