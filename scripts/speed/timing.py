"""Processor time of two sides in turns, and what a figure is beside what was asked of it."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

__all__ = ["PeakMemory", "alternate", "figure"]


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


class PeakMemory:
    """MiB that this process takes at most while the context lasts, read every few milliseconds.

    Pages of files that are mapped do not count: the system takes those back when it needs them.
    """

    def __enter__(self) -> PeakMemory:
        self.mib = 0.0
        self._done = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._reader.join()

    def _read(self) -> None:
        while True:
            text = Path("/proc/self/status").read_text(encoding="utf-8")
            self.mib = max(self.mib, int(text.split("RssAnon:")[1].split()[0]) / 1024)
            if self._done.wait(0.005):
                return
