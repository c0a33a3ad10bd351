"""Processor time of two sides in turns, and what a figure is beside what was asked of it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

__all__ = ["alternate", "figure", "peak_memory"]


def alternate(
    sides: dict[str, Callable[[], Any]], repeats: int, device: torch.device, warm_up: bool = True
) -> dict[str, float]:
    """Median seconds of each side, measured in turns, after one warm-up each unless they are long.

    Of the processor on a CPU, so that a machine with other work disturbs little; by the clock on an accelerator.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(0 if warm_up else 1, repeats + 1):
        for name, side in sides.items():
            start = _now(device)
            side()
            spent = _now(device) - start
            if repeat:
                times[name].append(spent)
    return {name: statistics.median(values) for name, values in times.items()}


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def figure(what: str, value: float, asked: str, **details: Any) -> dict[str, Any]:
    """A row of the table: a figure, what was asked of it (``"<= 1.05"``, ``">= 8"``, or nothing), and details."""
    good = None
    if asked:
        sign, bound = asked.split()
        good = value <= float(bound) if sign == "<=" else value >= float(bound)
    return {"what": what, "value": value, "asked": asked, "reached": good, **details}


def peak_memory() -> float:
    """MiB that this process has taken at most, without pages of files that are mapped: the system takes those back."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    values = {name: int(value.split()[0]) for name, value in (one.split(":", 1) for one in lines) if "kB" in value}
    return (values["VmHWM"] - values["RssFile"]) / 1024
