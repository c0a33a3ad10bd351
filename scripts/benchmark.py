"""What immunizing and measuring cost, as ratios measured side by side in one run.

    python scripts/benchmark.py                    # every part; hours on one slow core
    python scripts/benchmark.py --only steps ratio # some parts; the others keep their figures

Figures are processor time; the sides of a ratio alternate. benchmark.json is written to --output_dir part by part, each
with the hardware and the commit that made it, and README.md from it. A part that this commit has already measured on
this hardware is left out, so that a run that was stopped goes on where it was; --again measures it once more.
benchmark_gpu.py does the same on a GPU.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from datasets import disable_progress_bars
from speed import measuring, runs, steps
from speed.pictures import pictures
from speed.table import Rows, measure_parts, options_of_table
from speed.timing import figure


def parts(repeats: int) -> dict[str, Callable[[], Rows]]:
    """Name of a part → what measures it."""
    device = torch.device("cpu")

    def run(architecture: str, asked: str, size: int = 64, n: int = 1024, batch: int = 64) -> Callable[[], Rows]:
        return lambda: [runs.whole_run(architecture, size, n, batch, asked, 1, device)]

    return {
        "run-resnet": run("resnet18", "<= 1.0"),
        "run-vit": run("vit_tiny_patch16_224", "<= 0.8"),
        "run-lite0": run("tf_efficientnet_lite0", "<= 0.7"),
        "run-vit-224": run("vit_tiny_patch16_224", "<= 0.6", 224, 256, 16),
        "operations": lambda: [
            runs.operations_of_a_run("resnet18", 64),
            runs.operations_of_a_run("vit_tiny_patch16_224", 64),
            runs.operations_of_a_run("tf_efficientnet_lite0", 64),
            runs.operations_of_a_run("vit_tiny_patch16_224", 224),
        ],
        "steps": lambda: [
            steps.training_step("resnet18", 64, 64, repeats, device),
            steps.training_step("tf_efficientnet_lite0", 64, 64, repeats, device),
        ],
        "step-vit": lambda: [steps.training_step("vit_base_patch16_224", 224, 16, 2, device)],
        "published": lambda: [steps.published_step(max(1, repeats // 5), device)],
        "linear": lambda: [steps.linear_step(max(1, repeats // 5))],
        "closed-form": lambda: [
            steps.closed_form(64, 768, repeats, device),
            steps.closed_form(64, 512, repeats, device),
            steps.gram(4096, 768, repeats, device),
        ],
        "last-block": lambda: [
            steps.last_block("vit_tiny_patch16_224", 64, 64, repeats, device),
            steps.last_block("vit_tiny_patch16_224", 224, 16, repeats, device),
        ],
        "parts": lambda: [
            steps.in_parts_over_whole(one, 2, device)
            for one in ("vit_tiny_patch16_224", "resnet18", "resnet50", "mobilenetv3_small_100")
        ],
        "decoding": lambda: [runs.decoding(200, repeats, device)],
        "ratio": lambda: measuring.ratio_over_extraction(10_000, 1_000, 1, device),
        "memory-ratio": lambda: [_memory("RIR of n images a task", "ratio", ["10000", "100000"])],
        "memory-train": _memory_of_training,
        "processes": lambda: [runs.pair_of_processes()],
    }


def _memory_of_training() -> Rows:
    with tempfile.TemporaryDirectory() as folder:
        saved = []
        for n in (5_000, 50_000):
            # The same few pictures again and again: what counts is how many rows there are.
            few = pictures(500, 36, runs.CLASSES)
            few.select([row % len(few) for row in range(n)]).flatten_indices().save_to_disk(f"{folder}/{n}")
            saved.append(f"{folder}/{n}")
        return [_memory("60 steps of a training on 5,000 and 50,000 pictures", "train", saved)]


def _memory(what: str, child: str, given: list[str]) -> dict[str, Any]:
    """Peak memory of a process with the second of two sizes over that with the first."""
    peaks = [_child(child, one) for one in given]
    return figure(f"peak memory: {what}, larger over smaller", peaks[1] / peaks[0], "<= 1.05", peaks_mib=peaks)


def _child(*given: str) -> float:
    command = [sys.executable, __file__, "--child", *given]
    shown = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return float(next(line for line in shown.splitlines() if line.startswith("child ")).split()[1])


def _as_child(name: str, *given: str) -> float:
    if name == "ratio":
        return measuring.memory_of_ratio(int(given[0]))
    if name == "train":
        return runs.memory_of_training(given[0])
    return runs.throughput(int(given[0]), int(given[1]))


def main() -> None:
    """Measures the parts that were asked for, and writes the table after each."""
    parser = argparse.ArgumentParser(description="benchmark.py: what immunizing and measuring cost, as ratios.")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options_of_table(parser)
    options = parser.parse_args()
    disable_progress_bars()
    if options.child:
        print(f"child {_as_child(*options.child)}")
        return
    measure_parts(parser, parts(options.repeats), torch.device("cpu"))


if __name__ == "__main__":
    main()
