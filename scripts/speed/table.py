"""The table of a benchmark: measured part by part, kept with hardware and commit, written as JSON and Markdown."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from speed.plan import plan

__all__ = ["Rows", "as_markdown", "measure_parts", "options_of_table"]

ROOT = Path(__file__).resolve().parents[2]
Rows = list[dict[str, Any]]


def options_of_table(parser: argparse.ArgumentParser) -> None:
    """The options that every benchmark has."""
    parser.add_argument("--only", nargs="+", metavar="PART", help="parts to measure; all unless given")
    parser.add_argument("--again", action="store_true", help="measure also what this commit has measured already")
    parser.add_argument("--output_dir", type=Path, default=ROOT / "model_cards" / "benchmark")
    parser.add_argument("--add", type=Path, metavar="FILE", help="take over another machine's benchmark.json alone")
    parser.add_argument("--commit", help="of the code, where there is no git")


def measure_parts(
    parser: argparse.ArgumentParser, parts: Mapping[str, Callable[[], Rows]], device: torch.device
) -> None:
    """Measures what was asked for and writes the table after each part; where one fails, the others go on."""
    options = parser.parse_args()
    unknown = sorted(set(options.only or ()) - set(parts))
    if unknown:
        parser.error(f"unknown parts {', '.join(unknown)}; there are {', '.join(parts)}")
    target = options.output_dir / "benchmark.json"
    kept: dict[str, Any] = json.loads(target.read_text(encoding="utf-8")) if target.exists() else {}
    if options.add is not None:
        _write(options.output_dir, kept | json.loads(options.add.read_text(encoding="utf-8")))
        return
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "timm")}
    made_by = {"commit": options.commit or _commit(), "hardware": _hardware(device), "versions": versions}
    failed = []
    for name in options.only or parts:
        before = kept.get(name, {})
        if not options.again and all(before.get(key) == value for key, value in made_by.items()):
            continue
        print(f"{name} …", file=sys.stderr)
        try:
            rows = parts[name]()
        except Exception as error:
            failed.append(f"{name}: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}")
            print(f"FAILED {failed[-1]}", flush=True)
            continue
        kept[name] = made_by | {"rows": rows}
        for row in rows:
            print(f"{row['what']}: {row['value']:.3g} {'(' + row['asked'] + ')' if row['asked'] else ''}", flush=True)
        _write(options.output_dir, kept)
    if failed:
        sys.exit(f"{len(failed)} parts failed: {'; '.join(failed)}")


def _write(folder: Path, kept: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "benchmark.json").write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(as_markdown(kept), encoding="utf-8")


def as_markdown(kept: dict[str, Any]) -> str:
    """The table, a line a figure, with what each part was measured on."""
    lines = ["# Speed and memory", "", "`python scripts/benchmark.py` measures it and writes this page;"]
    lines += ["`python scripts/benchmark_gpu.py` adds the figures of a GPU.", ""]
    lines += ["| what | figure | asked | on | commit |", "|---|---|---|---|---|"]
    for part in kept.values():
        for row in part["rows"]:
            asked = {None: "", True: f"{row['asked']}", False: f"{row['asked']}, not reached"}[row["reached"]]
            lines.append(f"| {row['what']} | {row['value']:.3g} | {asked} | {part['hardware']} | {part['commit']} |")
    return "\n".join([*lines, *plan(kept)]) + "\n"


def _commit() -> str:
    shown = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True).stdout
    return (shown.stdout.strip() or "unknown") + (" with changes" if changed.strip() else "")


def _hardware(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{_processor()} CPU"
    return f"{name}, {torch.get_num_threads()} threads"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
