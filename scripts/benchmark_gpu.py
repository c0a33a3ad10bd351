"""What immunizing and measuring cost on a GPU, as ratios measured side by side in one run, in about a minute.

    python scripts/benchmark_gpu.py                        # ViT-B/16 with random weights, 256 + 256 images at 224 px
    python scripts/benchmark_gpu.py --device cpu --small   # whether it runs, on anything

Time is that by the clock, with the device waited for. The table is that of benchmark.py. It needs torch, torchvision,
timm, transformers and accelerate, and no package that reads data sets.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from speed import gpu
from speed.table import Rows, measure_parts, options_of_table
from speed.timing import figure

LARGE: gpu.Size = ("vit_base_patch16_224", 224, 256, 512, 8_192)
SMALL: gpu.Size = ("vit_tiny_patch16_224", 32, 4, 130, 64)


def parts(size: gpu.Size, repeats: int, device: torch.device) -> dict[str, Callable[[], Rows]]:
    """Name of a part → what measures it."""

    def rate() -> Rows:
        found = gpu.matrix_rate(size, repeats, device)
        return [figure(f"tera-operations a second of bf16 products of width {size[-1]}", found / 1e12, "")]

    return {
        "gpu-matrix-rate": rate,
        "gpu-step": lambda: gpu.mixed_step("last", size, repeats, device),
        "gpu-step-all": lambda: gpu.mixed_step("all", size, repeats, device),
        "gpu-eigenproblem": lambda: gpu.eigenproblem(size, repeats, device),
        "gpu-ratio": lambda: gpu.ratio_of_two(size, 1, device),
    }


def main() -> None:
    """Measures the parts that were asked for, and writes the table after each."""
    parser = argparse.ArgumentParser(description="benchmark_gpu.py: what it costs on a GPU, as ratios.")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="a tiny model and few images: whether it runs")
    parser.add_argument("--repeats", type=int, default=10)
    options_of_table(parser)
    options = parser.parse_args()
    device = torch.device(options.device)
    measure_parts(parser, parts(SMALL if options.small else LARGE, options.repeats, device), device)


if __name__ == "__main__":
    main()
