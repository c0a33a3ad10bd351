"""Processor time of two sides in turns, pictures to train on, and what a figure is beside what was asked of it."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage

__all__ = ["alternate", "figure", "pictures"]


def alternate(sides: dict[str, Callable[[], Any]], repeats: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each side, measured in turns after one warm-up each.

    Of the processor on a CPU, so that a machine with other work disturbs little; by the clock on an accelerator.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats + 1):
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


def pictures(n: int, size: int, n_classes: int, seed: int = 0) -> Dataset:
    """JPEG pictures of which a brightness tells the class, under noise of every scale."""
    rng = np.random.default_rng(seed)
    labels = [int(label) for label in rng.integers(0, n_classes, n)]
    rows = []
    for label in labels:
        pixels = 40 + 160 * label / n_classes + rng.normal(0, 20, (size, size, 3))
        for cell in (size // 2, size // 8):
            coarse = rng.normal(0, 30, (-(-size // cell), -(-size // cell), 3))
            pixels += np.kron(coarse, np.ones((cell, cell, 1)))[:size, :size]
        with io.BytesIO() as file:
            PILImage.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
            rows.append({"bytes": file.getvalue(), "path": None})
    names = [f"class {label}" for label in range(n_classes)]
    return Dataset.from_dict(
        {"image": rows, "label": labels}, features=Features({"image": Image(), "label": ClassLabel(names=names)})
    )
