"""Deep stand-ins for the paper's section 5.3, without a network: three backbones, two harmful tasks, eight methods.

    python scripts/reproduce_deep.py --data DIR          # everything; DIR holds Fashion-MNIST's four idx .gz files
    python scripts/reproduce_deep.py --data DIR --backbones efficientnet_lite0 --tasks five_five --seeds 0

`deep_setups.py` says where images and weights come from. Finished runs are kept in --output_dir and not repeated;
model_cards/deep has them all.
"""

from __future__ import annotations

import argparse
import copy
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from datasets import disable_progress_bars
from deep_report import Results, draw, draw_recovery, report
from deep_setups import BACKBONES, TASKS, extract, first, inputs_of, load, prepare
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from hf_immunize.attacks import Budgets
from hf_immunize.attacks.attacker import choose_attackers
from hf_immunize.attacks.suite import compare_models
from hf_immunize.metrics.evaluation import Protocol, rir_report
from hf_immunize.models.extraction import Extracted
from hf_immunize.training.workflow import Recipe, train_cached

#: The defaults of `ImmunizationArguments`.
OURS = Recipe(
    steps=300, learning_rate=5e-4, lambda_primary=1.0, lambda_harmful=0.3, warmup_steps=30, optim="adamw_torch"
)
METHODS: dict[str, Recipe] = {
    "control": OURS.control(),
    "r_ill_only": replace(OURS, objective="r_ill_only"),
    "imma": replace(OURS, objective="imma"),
    "opt_kappa": replace(OURS, objective="opt_kappa"),
    "opt_log_kappa": replace(OURS, objective="opt_log_kappa", lambda_primary=0.1, lambda_harmful=0.1),
    "condition_raw": replace(OURS, scale_free=False),
    "condition": OURS,
}
#: λ_P, λ_H searched with seed 0 for the methods whose weights are no pure numbers or were given none here; the raw
#: form over the span of the paper's own configurations.
SEARCH: dict[str, list[tuple[float, float]]] = {
    "imma": [(0.0, 0.3), (0.0, 1.0)],
    "opt_kappa": [(1e-4, 1e-4), (1e-7, 1e-7)],
    "condition_raw": [(1e-6, 1e6), (1e-4, 1e6), (1e-4, 1e8)],
}


#: What the attackers of a model of seed 0 may spend, the images of a task that they have, and those that judge them.
ATTACK_BUDGETS, N_ATTACK, N_JUDGE = Budgets(samples=(10, None), steps=(10, 30, 100, 300)), 1_000, 500
#: Backbone and task, name of the row, method, seed, recipe.
Job = tuple[tuple[str, str], str, str, int, Recipe]


def run(path: Path, method: str, seed: int, recipe: Recipe, weights: Path | None) -> dict[str, Any]:
    """One method with one seed: trains from θ0, and measures beside θ0."""
    torch.set_num_threads(1)
    kept = load(path)
    selection, tasks = kept["selection"], kept["tasks"]
    initial = features = kept["features"]
    start = time.perf_counter()
    if method != "init":
        model = copy.deepcopy(kept["model"])
        harmful = None if method == "control" else tasks["harmful"].train
        recipe = replace(recipe, seed=seed)
        primary = tasks["primary"].train
        train_cached(model, selection, primary, harmful, recipe, kept["images"], progress=False)
        features = extract(model, selection, tasks, kept["images"])
        if weights is not None:
            weights.parent.mkdir(parents=True, exist_ok=True)
            trained = {name: one.detach().contiguous() for name, one in model.named_parameters() if one.requires_grad}
            save_file(trained, weights)
    seconds = time.perf_counter() - start
    evaluated = (features[task]["eval"].features for task in ("harmful", "primary"))
    before = (initial[task]["eval"].features for task in ("harmful", "primary"))
    pairs = [matrix for both in zip(evaluated, before, strict=True) for matrix in both]
    row = {
        "recipe": None if method == "init" else asdict(recipe),
        "seconds": round(seconds, 1),
        "primary_accuracy": features["primary"]["eval"].accuracy,
        "initial_primary_accuracy": initial["primary"]["eval"].accuracy,
        "rir": rir_report(*pairs, protocol=Protocol()).to_dict(),
    }
    if seed == 0:
        row["fine_tuning"] = {task: fine_tune(**features[task]) for task in ("harmful", "benign")}
    return row


def fine_tune(train: Extracted, eval: Extracted, epochs: int = 6) -> list[float]:
    """Test accuracy after each epoch of fitting a new head by SGD on frozen features (paper, last figure)."""
    head = nn.Linear(train.features.shape[1], int(train.labels.max()) + 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    generator = torch.Generator().manual_seed(0)
    curve = []
    for _ in range(epochs):
        for rows in torch.randperm(len(train.features), generator=generator).split(64):
            optimizer.zero_grad()
            F.cross_entropy(head(train.features[rows]), train.labels[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            curve.append((head(eval.features.float()).argmax(1) == eval.labels).double().mean().item())
    return curve


def attack(
    path: Path, pair: tuple[str, str], data: Path, weights: dict[str, Path], attackers: list[str]
) -> dict[str, Any]:
    """Every attacker on θ0, random weights and every method's model of seed 0; a report for each method.

    Args:
        path: what :func:`deep_setups.prepare` wrote.
        pair: backbone and task.
        data: the folder of Fashion-MNIST.
        weights: method → the weights of its run.
        attackers: names, or ``all``, ``probes``, ``finetuning``.
    """
    torch.set_num_threads(1)
    models = {"initial": load(path)["model"]}
    for method, file in weights.items():
        models[method] = copy.deepcopy(models["initial"])
        models[method].load_state_dict(load_file(file), strict=False)
    inputs = inputs_of(*pair, data)
    reports = compare_models(
        models,
        list(models),
        first(inputs["harmful"][0], N_ATTACK),
        first(inputs["harmful"][1], N_JUDGE),
        primary=first(inputs["primary"][0], N_ATTACK),
        benign_train=first(inputs["benign"][0], N_ATTACK),
        benign_test=first(inputs["benign"][1], N_JUDGE),
        attackers=attackers,
        budgets=ATTACK_BUDGETS,
    )
    return {("init" if name == "initial" else name): _rounded(report.to_dict()) for name, report in reports.items()}


def _rounded(value: Any) -> Any:
    """The same values with four decimals: there are many of them."""
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value


def attempt(path: Path, method: str, seed: int, recipe: Recipe, weights: Path | None) -> dict[str, Any]:
    """A run, or why it stopped: a method that diverges is a result too."""
    try:
        return run(path, method, seed, recipe, weights)
    except FloatingPointError as error:
        return {"stopped": str(error).split(";")[0], "recipe": asdict(replace(recipe, seed=seed))}


def best_index(results: Results, backbone: str, task: str, method: str) -> int:
    """The searched weights with the largest median RIR among those that cost at most one point of primary accuracy."""
    rows = [results[f"{backbone}/{task}/{method}:{index}/0"] for index in range(len(SEARCH[method]))]
    usable = [index for index, row in enumerate(rows) if "stopped" not in row]
    good = [
        index for index in usable if rows[index]["primary_accuracy"] >= rows[index]["initial_primary_accuracy"] - 0.01
    ]
    if good:
        return max(good, key=lambda index: rows[index]["rir"]["rir"]["median"])
    return max(usable, key=lambda index: rows[index]["primary_accuracy"], default=0)


def main() -> None:
    """Prepares θ0, runs what is not there yet, prints the table and draws the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with Fashion-MNIST's four idx .gz files")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/deep"), help="figures, θ0, weights of seed 0")
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=list(BACKBONES))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--attackers", nargs="+", default=["all"], help="all, probes, finetuning, or names in quotes")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    choose_attackers(options.attackers)
    torch.set_num_threads(1)
    results = Results(options.output_dir / "deep.json", "python scripts/reproduce_deep.py --data DIR")
    pairs = [(backbone, task) for task in options.tasks for backbone in options.backbones]
    searched = [method for method in options.methods if method in SEARCH]
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn"), initializer=_quiet) as pool:
        waiting = {pair: pool.submit(prepare, *pair, options.data, options.output_dir) for pair in pairs}
        paths = {pair: one.result() for pair, one in tqdm(waiting.items(), desc="θ0")}
        jobs: list[Job] = [(pair, "init", "init", 0, OURS) for pair in pairs]
        for pair in pairs:
            jobs += [
                (pair, f"{method}:{index}", method, 0, _weighted(method, index))
                for method in searched
                for index in range(len(SEARCH[method]))
            ]
        for seed in options.seeds:
            jobs += [
                (pair, method, method, seed, METHODS[method])
                for pair in pairs
                for method in options.methods
                if method not in SEARCH
            ]
        _work(pool, jobs, paths, results, "runs", options.output_dir)
        jobs = []
        for pair in pairs:
            for method in searched:
                best = best_index(results, *pair, method)
                results.add(f"{pair[0]}/{pair[1]}/{method}/0", results[f"{pair[0]}/{pair[1]}/{method}:{best}/0"])
                recipe = _weighted(method, best)
                jobs += [(pair, method, method, seed, recipe) for seed in options.seeds if seed != 0]
        _work(pool, jobs, paths, results, "other seeds of the weights found", options.output_dir)
        attacked = Results(options.output_dir / "attacks.json", results.values["command"], indent=None)
        trained = {pair: _weights_of_seed_0(options.output_dir, results, pair, options.methods) for pair in pairs}
        # The backbone that takes longest first.
        left = [pair for pair in reversed(pairs) if not set(trained[pair]) <= set(attacked.reports(pair))]
        lost = [file.name for pair in left for file in trained[pair].values() if not file.exists()]
        if lost:
            raise SystemExit(
                f"{results.path} has finished runs whose weights, which the attackers need, are gone: "
                f"{', '.join(lost)}. Give another --output_dir to run them again."
            )
        waiting = {
            pool.submit(attack, paths[pair], pair, options.data, trained[pair], options.attackers): "/".join(pair)
            for pair in left
        }
        for finished in tqdm(as_completed(waiting), total=len(waiting), desc="attacks"):
            attacked.add(waiting[finished], finished.result())
    text = report(results, attacked, pairs)
    (options.output_dir / "deep.md").write_text(text + "\n", encoding="utf-8")
    draw(results, options.backbones, options.tasks, options.output_dir / "deep.png")
    draw_recovery(results, attacked, pairs, options.output_dir / "recovery.png")
    print(text)


def _weighted(method: str, index: int) -> Recipe:
    primary, harmful = SEARCH[method][index]
    return replace(METHODS[method], lambda_primary=primary, lambda_harmful=harmful)


def _weights_of_seed_0(work: Path, results: Results, pair: tuple[str, str], methods: list[str]) -> dict[str, Path]:
    """Method → the weights of its run with seed 0, of the searched ones those that were chosen."""
    found = {}
    for method in methods:
        if f"{pair[0]}/{pair[1]}/{method}/0" not in results:
            continue
        name = f"{method}:{best_index(results, *pair, method)}" if method in SEARCH else method
        key = f"{pair[0]}/{pair[1]}/{name}/0"
        if "stopped" not in results[key]:
            found[method] = _weights_file(work, key)
    return found


def _weights_file(work: Path, key: str) -> Path:
    return work / "weights" / f"{key.replace('/', '-').replace(':', '-')}.safetensors"


def _quiet() -> None:
    torch.set_num_threads(1)
    transformers_logging.set_verbosity_error()
    disable_progress_bars()


def _work(
    pool: ProcessPoolExecutor,
    jobs: list[Job],
    paths: dict[tuple[str, str], Path],
    results: Results,
    label: str,
    work: Path,
) -> None:
    waiting = {}
    for pair, name, method, seed, recipe in jobs:
        key = f"{pair[0]}/{pair[1]}/{name}/{seed}"
        if key not in results:
            weights = _weights_file(work, key) if seed == 0 else None
            waiting[pool.submit(attempt, paths[pair], method, seed, recipe, weights)] = key
    for finished in tqdm(as_completed(waiting), total=len(waiting), desc=label):
        results.add(waiting[finished], finished.result())


if __name__ == "__main__":
    main()
