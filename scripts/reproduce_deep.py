"""Deep stand-ins for the paper's section 5.3, without a network: three backbones, two harmful tasks, eight methods.

    python scripts/reproduce_deep.py --data DIR          # everything; DIR holds Fashion-MNIST's four idx .gz files
    python scripts/reproduce_deep.py --data DIR --backbones efficientnet_lite0 --tasks five_five --seeds 0
    python scripts/reproduce_deep.py --report_only --output_dir model_cards/deep     # tables and figures alone

Every run is a call of `hf_immunize.immunize` from one θ0, with other arguments; `paper/deep_setups.py` says where
images and weights come from. Finished runs are kept in --output_dir and not repeated; model_cards/deep has them all.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from datasets import disable_progress_bars
from paper.deep_report import Results, draw, draw_recovery, report
from paper.deep_setups import BACKBONES, QUIET, TASKS, Start, first, start
from paper.jobs import keep_each
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from hf_immunize.attacks import Budgets
from hf_immunize.attacks.attacker import choose_attackers
from hf_immunize.attacks.subject import Subject
from hf_immunize.attacks.suite import AttackSuite
from hf_immunize.models.extraction import Extracted
from hf_immunize.release.measure import measure
from hf_immunize.training.arguments import ImmunizationArguments
from hf_immunize.training.immunize import immunize

#: The defaults of `ImmunizationArguments`, written out so that the reproduction stays what it is.
OURS: dict[str, Any] = {
    "objective": "condition",
    "lambda_primary": 1.0,
    "lambda_harmful": 0.3,
    "scale_free": True,
    "learning_rate": 5e-4,
    "optim": "adamw_torch",
    "per_device_train_batch_size": 64,
    "max_grad_norm": 1.0,
    "label_smoothing_factor": 0.0,
}
STEPS, WARMUP_SHARE = 300, 0.1
#: What a method changes of them; the control is `ImmunizationArguments.as_control`, and init is θ0 as it is.
METHODS: dict[str, dict[str, Any]] = {
    "control": {},
    "r_ill_only": {"objective": "r_ill_only"},
    "imma": {"objective": "imma"},
    "opt_kappa": {"objective": "opt_kappa"},
    "opt_log_kappa": {"objective": "opt_log_kappa", "lambda_primary": 0.1, "lambda_harmful": 0.1},
    "condition_raw": {"scale_free": False},
    "condition": {},
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
#: Names under which a record of this script has arguments of the training.
RECORDED = {"per_device_train_batch_size": "batch_size", "label_smoothing_factor": "label_smoothing"}
#: Backbone and task.
Pair = tuple[str, str]
#: Backbone and task, name of the row, method, seed, index of its searched weights.
Job = tuple[Pair, str, str, int, int | None]


def arguments(
    method: str, seed: int, index: int | None = None, steps: int = STEPS, output_dir: str = ""
) -> ImmunizationArguments:
    """A method's arguments; ``index`` chooses among the weights that are searched."""
    changes = dict(METHODS[method])
    if index is not None:
        changes["lambda_primary"], changes["lambda_harmful"] = SEARCH[method][index]
    warmup = round(WARMUP_SHARE * steps)
    own = {"max_steps": steps, "warmup_steps": warmup, "seed": seed}
    args = ImmunizationArguments(output_dir, **(OURS | QUIET | own | changes))
    return args.as_control() if method == "control" else args


def recipe(method: str, seed: int, index: int | None = None, steps: int = STEPS) -> dict[str, Any] | None:
    """What a row says about how it was made: the numbers that decide it."""
    if method == "init":
        return None
    args = arguments(method, seed, index, steps)
    values = {RECORDED.get(name, name): getattr(args, name) for name in OURS}
    optimizer = str(getattr(args.optim, "value", args.optim))
    return values | {"optim": optimizer, "seed": seed, "steps": steps, "warmup_steps": args.get_warmup_steps(steps)}


def run(begin: Start, method: str, seed: int, index: int | None, steps: int, weights: Path | None) -> dict[str, Any]:
    """One method with one seed: trains from θ0, and measures beside θ0."""
    tasks = {task: begin.data[task] for task in ("primary", "harmful")}
    began = time.perf_counter()
    if method == "init":
        model = begin.model
        both = {"initial": model, "immunized": model}
        results = measure(both, tasks, attackers=None, activations=begin.activations)
    else:
        with tempfile.TemporaryDirectory() as folder:
            finished = immunize(
                copy.deepcopy(begin.model),
                **tasks,
                args=arguments(method, seed, index, steps, folder),
                control=False,
                attackers=None,
                activations=begin.activations,
            )
        assert finished is not None
        model, results = finished.model, finished.results
        if weights is not None:
            weights.parent.mkdir(parents=True, exist_ok=True)
            trained = {name: one.detach().contiguous() for name, one in model.named_parameters() if one.requires_grad}
            save_file(trained, weights)
    row = {
        "recipe": recipe(method, seed, index, steps),
        "seconds": round(time.perf_counter() - began, 1),
        "primary_accuracy": results["primary_accuracy"]["immunized"],
        "initial_primary_accuracy": results["primary_accuracy"]["initial"],
        "rir": results["rir"]["immunized"],
    }
    if seed == 0:
        row["fine_tuning"] = {task: fine_tune(*features(begin, model, task)) for task in ("harmful", "benign")}
    return row


def features(begin: Start, model: nn.Module, task: str) -> tuple[Extracted, Extracted]:
    """Features of a task's training and evaluation images, from θ0's activations."""
    sets = dict(zip(("train", "test"), begin.data[task], strict=True))
    zero = Subject(begin.model, sets, activations=begin.activations)
    own = Subject(model, sets, activations=begin.activations, peers=[zero])
    return own.extracted("train"), own.extracted("test")


def fine_tune(train: Extracted, test: Extracted, epochs: int = 6) -> list[float]:
    """Test accuracy after each epoch of fitting a new head by SGD on frozen features (paper, last figure)."""
    assert train.labels is not None
    rows_of = train.features.float()
    head = nn.Linear(rows_of.shape[1], int(train.labels.max()) + 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    generator = torch.Generator().manual_seed(0)
    curve = []
    for _ in range(epochs):
        for rows in torch.randperm(len(rows_of), generator=generator).split(64):
            optimizer.zero_grad()
            F.cross_entropy(head(rows_of[rows]), train.labels[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            curve.append((head(test.features.float()).argmax(1) == test.labels).double().mean().item())
    return curve


def attack(begin: Start, weights: dict[str, Path], attackers: list[str]) -> dict[str, Any]:
    """Every attacker on θ0, random weights and every method's model of seed 0; a report for each method.

    Args:
        begin: θ0 and its data.
        weights: method → the weights of its run.
        attackers: names, or ``all``, ``probes``, ``finetuning``.
    """
    models = {"initial": begin.model}
    for method, file in weights.items():
        models[method] = copy.deepcopy(begin.model)
        models[method].load_state_dict(load_file(file), strict=False)
    few = {
        task: (first(train, N_ATTACK), first(evaluation, N_JUDGE)) for task, (train, evaluation) in begin.data.items()
    }
    suite = AttackSuite(
        models,
        *few["harmful"],
        primary=few["primary"][0],
        benign_train=few["benign"][0],
        benign_test=few["benign"][1],
        attackers=attackers,
        budgets=ATTACK_BUDGETS,
    )
    reports = suite.run(list(models))
    return {("init" if name == "initial" else name): _rounded(found.to_dict()) for name, found in reports.items()}


def _rounded(value: Any) -> Any:
    """The same values with four decimals: there are many of them."""
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value


def attempt(
    pair: Pair, data: Path, work: Path, method: str, seed: int, index: int | None, steps: int, weights: Path | None
) -> dict[str, Any]:
    """A run, or why it stopped: a method that diverges is a result too."""
    try:
        return run(start(*pair, data, work), method, seed, index, steps, weights)
    except FloatingPointError as error:
        return {"stopped": str(error).split(";")[0], "recipe": recipe(method, seed, index, steps)}


def attack_pair(pair: Pair, data: Path, work: Path, weights: dict[str, Path], attackers: list[str]) -> dict[str, Any]:
    """As :func:`attack`, in a process of its own."""
    return attack(start(*pair, data, work), weights, attackers)


def begin_pair(pair: Pair, data: Path, work: Path) -> None:
    """Makes θ0 where it is not there."""
    start(*pair, data, work)


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
    """Makes θ0, runs what is not there yet, prints the tables and draws the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with Fashion-MNIST's four idx .gz files")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/deep"), help="figures, θ0, weights of seed 0")
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=list(BACKBONES))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=STEPS, help="of each run; fewer for a quick look")
    parser.add_argument("--attackers", nargs="+", default=["all"], help="all, probes, finetuning, or names in quotes")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--report_only", action="store_true", help="run nothing: tables and figures of what is there")
    options = parser.parse_args()
    choose_attackers(options.attackers)
    torch.set_num_threads(1)
    command = "python scripts/reproduce_deep.py --data DIR"
    results = Results(options.output_dir / "deep.json", command)
    attacked = Results(options.output_dir / "attacks.json", command, indent=None)
    pairs = [(backbone, task) for task in options.tasks for backbone in options.backbones]
    if not options.report_only:
        if options.data is None:
            parser.error("--data is needed, except with --report_only")
        with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn"), initializer=_quiet) as pool:
            _run_all(pool, options, pairs, results, attacked)
    elif not results.values["rows"]:
        parser.error(f"{results.path} is not there or has no runs")
    text = report(results, attacked, pairs)
    (options.output_dir / "deep.md").write_text(text + "\n", encoding="utf-8")
    draw(results, options.backbones, options.tasks, options.output_dir / "deep.png")
    draw_recovery(results, attacked, pairs, options.output_dir / "recovery.png")
    print(text)


def _run_all(
    pool: ProcessPoolExecutor, options: argparse.Namespace, pairs: list[Pair], results: Results, attacked: Results
) -> None:
    places = (options.data, options.output_dir)
    for one in tqdm([pool.submit(begin_pair, pair, *places) for pair in pairs], desc="θ0"):
        one.result()
    searched = [method for method in options.methods if method in SEARCH]
    jobs: list[Job] = []
    for pair in pairs:
        # Pair by pair, so that a process keeps one θ0 and its activations at a time.
        jobs.append((pair, "init", "init", 0, None))
        jobs += [
            (pair, f"{method}:{index}", method, 0, index) for method in searched for index in range(len(SEARCH[method]))
        ]
        jobs += [
            (pair, method, method, seed, None)
            for seed in options.seeds
            for method in options.methods
            if method not in SEARCH
        ]
    _work(pool, options, jobs, results, attacked, "runs")
    jobs = []
    for pair in pairs:
        for method in searched:
            best = best_index(results, *pair, method)
            results.add(f"{pair[0]}/{pair[1]}/{method}/0", results[f"{pair[0]}/{pair[1]}/{method}:{best}/0"])
            jobs += [(pair, method, method, seed, best) for seed in options.seeds if seed != 0]
    _work(pool, options, jobs, results, attacked, "other seeds of the weights found")
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
        pool.submit(attack_pair, pair, *places, trained[pair], options.attackers): "/".join(pair) for pair in left
    }
    keep_each(waiting, "attacks", attacked.add)


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
    # The Trainer prints a summary whatever it is told; results come back as values.
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    transformers_logging.set_verbosity_error()
    disable_progress_bars()


def _work(
    pool: ProcessPoolExecutor,
    options: argparse.Namespace,
    jobs: list[Job],
    results: Results,
    attacked: Results,
    label: str,
) -> None:
    waiting = {}
    for pair, name, method, seed, index in jobs:
        key = f"{pair[0]}/{pair[1]}/{name}/{seed}"
        if results.done(key, recipe(method, seed, index, options.steps)):
            continue
        weights = _weights_file(options.output_dir, key) if seed == 0 else None
        places = (options.data, options.output_dir)
        job = pool.submit(attempt, pair, *places, method, seed, index, options.steps, weights)
        waiting[job] = key

    def keep(key: str, row: dict[str, Any]) -> None:
        pair_key = "/".join(key.split("/")[:2])
        if key in results and pair_key in attacked:
            # What attackers found is of the run that is replaced now.
            attacked.add(pair_key, None)
        results.add(key, row)

    keep_each(waiting, label, keep)


if __name__ == "__main__":
    main()
