"""Speed of what this project adds, as ratios measured in one run.

    python scripts/benchmark.py            # prints a table; --json FILE keeps it

* a training step with the regularizers over the same step without them: the same two batches, forward and backward;
* the closed-form regularizers over autograd through an eigendecomposition of the d × d Hessian;
* streaming a Gram: rows a second.

Steps alternate between the two sides, and each figure is a median, so that a noisy machine disturbs both alike.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F

from hf_immunize.models.head import features_and_logits
from hf_immunize.models.trainable import keep_still, select_trainable
from hf_immunize.objectives.registry import get_objective
from hf_immunize.release.record import library_versions
from hf_immunize.spectra.regularizers import FLOOR, features_r_ill, features_r_well
from hf_immunize.spectra.spectrum import FeatureGram


def alternate(sides: dict[str, Callable[[], None]], repeats: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each side, measured in turns after one warm-up each."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats + 1):
        for name, side in sides.items():
            if device.type == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            side()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if repeat:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def training_step(architecture: str, image_size: int, batch: int, repeats: int, device: torch.device) -> dict[str, Any]:
    """One step with the objective ``condition`` and one without, on the same primary and harmful batch."""
    torch.manual_seed(0)
    model = timm.create_model(architecture, num_classes=10).to(device)
    images = torch.randn(2 * batch, 3, image_size, image_size, device=device)
    labels = torch.randint(10, (batch,), device=device)
    selection = select_trainable(model, "last", images)
    model.train()
    keep_still(model)
    objective = get_objective("condition")

    def step(regularized: bool) -> None:
        model.zero_grad()
        features, logits = features_and_logits(model, images)
        loss = F.cross_entropy(logits[:batch], labels)
        if regularized:
            loss = loss + sum(objective(features[:batch], features[batch:]).values())
        else:
            # The harmful rows stay in the graph, as the comparison asks for the same two batches.
            loss = loss + 0.0 * features[batch:].sum()
        loss.backward()

    sides = {"with": lambda: step(True), "without": lambda: step(False)}
    times = alternate(sides, repeats, device)
    return {
        "case": f"{architecture}, {batch} + {batch} images at {image_size} px, {selection.n_parameters:,} trained",
        "with_ms": 1e3 * times["with"],
        "without_ms": 1e3 * times["without"],
        "ratio": times["with"] / times["without"],
    }


def closed_form(n: int, d: int, repeats: int, device: torch.device) -> dict[str, Any]:
    """R_ill and R_well of n × d features, forward and backward, against autograd through a d × d `eigvalsh`."""
    torch.manual_seed(0)
    features = torch.randn(n, d, device=device, requires_grad=True)

    def ours() -> None:
        features.grad = None
        (features_r_ill(features) + features_r_well(features)).backward()

    def autograd() -> None:
        features.grad = None
        rows = features.double()
        values = torch.linalg.eigvalsh(rows.mT @ rows)[-min(n, d) :]
        shares = values / values.mean()
        ((1 + shares / FLOOR).log10().mean() - shares.log10().mean()).backward()

    times = alternate({"closed form": ours, "autograd": autograd}, repeats, device)
    return {
        "case": f"R_ill + R_well of {n} × {d} features, forward and backward",
        "closed_form_ms": 1e3 * times["closed form"],
        "autograd_ms": 1e3 * times["autograd"],
        "speed_up": times["autograd"] / times["closed form"],
    }


def gram(rows: int, d: int, repeats: int, device: torch.device) -> dict[str, Any]:
    """A streamed float64 Gram of float32 features."""
    features = torch.randn(rows, d, device=device)
    times = alternate({"update": lambda: FeatureGram(d).update(features)}, repeats, device)
    return {"case": f"FeatureGram.update, {rows} × {d} rows", "rows_a_second": rows / times["update"]}


def main() -> None:
    """Runs all cases and prints them."""
    parser = argparse.ArgumentParser(description="Speed of the regularizers, as ratios measured in one run.")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    device = torch.device(options.device)
    results = [
        training_step("tf_efficientnet_lite0", 64, 64, options.repeats, device),
        training_step("tf_efficientnet_lite0", 128, 32, options.repeats, device),
        training_step("resnet18", 64, 64, options.repeats, device),
        closed_form(64, 768, options.repeats, device),
        closed_form(64, 512, options.repeats, device),
        gram(4096, 768, options.repeats, device),
    ]
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    print(f"{hardware}, {torch.get_num_threads()} threads, torch {torch.__version__}; medians of {options.repeats}")
    for row in results:
        figures = ", ".join(f"{key} {value:,.3g}" for key, value in row.items() if key != "case")
        print(f"{row['case']}: {figures}")
    if options.json:
        options.json.write_text(
            json.dumps({"hardware": hardware, "versions": library_versions(), "results": results}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
