"""Speed of the attack suite, measured in one run.

    python scripts/benchmark_attacks.py    # prints a table; --json FILE keeps it

* all probes with their full grids and three seeds on 5,000 × 512 features of 10 classes: seconds, and the peak memory
  of this process;
* a grid of 13 learning rates as one problem over the same 13 one after another, in turns, with their accuracies.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from hf_immunize.attacks import Budgets, attack_features
from hf_immunize.attacks.probes import ADAM_RATES, BATCH
from hf_immunize.attacks.softmax_heads import softmax_descent, with_bias
from hf_immunize.models.extraction import Extracted
from hf_immunize.release.record import library_versions

N, D, CLASSES, N_TEST = 5_000, 512, 10, 1_000


def task(n: int, seed: int = 0) -> Extracted:
    """Rectified class means in directions of very different scale, so that attackers differ and none is perfect."""
    means = 0.12 * torch.randn(CLASSES, D, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (n,), generator=generator)
    rows = (means[labels] + torch.randn(n, D, generator=generator)) * torch.logspace(0, -2, D)
    return Extracted(rows.relu() + 0.1 * rows, torch.zeros(n, CLASSES), labels)


def all_probes() -> dict[str, Any]:
    """One feature set under every probe: the two models of a report are the same, so half of what it takes is one."""
    splits = {"train": task(N, 1), "test": task(N_TEST, 2)}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    models = {"initial": splits, "immunized": splits}
    report = attack_features(models, budgets=Budgets(samples=(None,)))
    seconds = (time.perf_counter() - start) / len(models)
    return {
        "case": f"all probes, {N} × {D} features, {CLASSES} classes, 3 seeds",
        "seconds": seconds,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "before_mib": before / 1024,
        "strongest": report.strongest("initial")[1],
    }


def batched_grid(repeats: int, batch_size: int | None, steps: int) -> dict[str, Any]:
    """13 rates of Adam side by side, and one after another."""
    train, test = task(N, 1), task(N_TEST, 2)

    def accuracies(rates: tuple[float, ...]) -> list[float]:
        found = softmax_descent(
            train.features, train.labels, CLASSES, rates, (steps,), rule="adam", batch_size=batch_size
        )
        ((_, _, heads),) = found
        scores = with_bias(test.features) @ heads
        return (scores.argmax(2) == test.labels).double().mean(1).tolist()

    times: dict[str, list[float]] = {"batched": [], "serial": []}
    for _ in range(repeats):
        start = time.perf_counter()
        together = accuracies(ADAM_RATES)
        middle = time.perf_counter()
        alone = [accuracies((rate,))[0] for rate in ADAM_RATES]
        times["batched"].append(middle - start)
        times["serial"].append(time.perf_counter() - middle)
    seconds = {name: statistics.median(values) for name, values in times.items()}
    return {
        "case": f"13 rates of Adam, {steps} steps, {f'batches of {batch_size}' if batch_size else 'all rows a step'}",
        "batched_s": seconds["batched"],
        "serial_s": seconds["serial"],
        "speed_up": seconds["serial"] / seconds["batched"],
        "largest_difference_of_accuracy": max(abs(a - b) for a, b in zip(together, alone, strict=True)),
    }


def main() -> None:
    """Runs all cases and prints them."""
    parser = argparse.ArgumentParser(description="Speed of the attack suite, measured in one run.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    results = [
        all_probes(),
        batched_grid(options.repeats, BATCH, 300),
        batched_grid(options.repeats, None, 30),
    ]
    print(f"{platform.machine()} CPU, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for row in results:
        figures = ", ".join(f"{key} {value:,.3g}" for key, value in row.items() if key != "case")
        print(f"{row['case']}: {figures}")
    if options.json:
        options.json.write_text(json.dumps({"versions": library_versions(), "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
