"""Deep stand-ins for the paper's section 5.3, without a network: three backbones, two harmful tasks, eight methods.

    python scripts/reproduce_deep.py --data DIR          # everything; DIR holds Fashion-MNIST's four idx .gz files
    python scripts/reproduce_deep.py --data DIR --backbones efficientnet_lite0 --tasks five_five --seeds 0
    python scripts/reproduce_deep.py --report_only --output_dir model_cards/deep     # tables and figures alone

Every run is a call of `hf_immunize.immunize` from one θ0, with other arguments (`paper/deep_runs.py`);
`paper/deep_setups.py` says where images and weights come from. Finished runs are kept in --output_dir and not
repeated; model_cards/deep has them all.
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from datasets import disable_progress_bars
from paper.deep_figures import draw, draw_recovery
from paper.deep_report import report
from paper.deep_runs import METHODS, SEARCH, STEPS, Pair, attack_pair, attempt, begin_pair, recipe
from paper.deep_setups import BACKBONES, TASKS
from paper.jobs import keep_each
from paper.results import Results
from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from hf_immunize.attacks.attacker import choose_attackers

#: Backbone and task, name of the row, method, seed, index of its searched weights.
Job = tuple[Pair, str, str, int, int | None]


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
