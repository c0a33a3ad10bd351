"""Every method on every case, and what it leaves an attacker beyond what they have anyway.

    python scripts/compare_methods.py --data DIR                   # everything; DIR holds Fashion-MNIST's idx files
    python scripts/compare_methods.py --data DIR --cases digits --methods condition simulated_attackers --seeds 0
    python scripts/compare_methods.py --report_only --output_dir model_cards/methods      # table and figures alone

`paper/cases.py` says where images and weights come from. Each model (θ0, the three ceilings, the control, one for each
method and seed) is made, measured and attacked by itself; finished ones are kept in --output_dir and not repeated, nor
is a training whose weights are there where only the attackers are others.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from datasets import disable_progress_bars
from paper.cases import CASES, REFERENCES, Begin, begin
from paper.deep_setups import QUIET, first
from paper.jobs import keep_each
from paper.methods_report import draw, report
from paper.results import Results
from safetensors import safe_open
from safetensors.torch import load_model, save_model
from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from hf_immunize.attacks import Budgets
from hf_immunize.attacks.suite import AttackSuite
from hf_immunize.data.whole_files import whole_file
from hf_immunize.release.measure import measure
from hf_immunize.training.arguments import ImmunizationArguments
from hf_immunize.training.immunize import immunize

#: What a method changes of the defaults: 300 steps, 64 + 64 images, AdamW at 5e-4, the last block.
METHODS: dict[str, dict[str, Any]] = {
    "control": {},
    "r_ill_only": {"objective": "r_ill_only"},
    "r_well_only": {"objective": "r_well_only"},
    "imma": {"objective": "imma", "lambda_primary": 0.0, "lambda_harmful": 0.3},
    "opt_kappa": {"objective": "opt_kappa", "lambda_primary": 1e-4, "lambda_harmful": 1e-4},
    "opt_log_kappa": {"objective": "opt_log_kappa", "lambda_primary": 0.1, "lambda_harmful": 0.1},
    "condition_raw": {"scale_free": False, "lambda_primary": 1e-6, "lambda_harmful": 1e6},
    "condition": {},
    "ridge": {"objective": "ridge"},
    "rep_noise": {"objective": "rep_noise", "trainable": ["all"], "lambda_harmful": 1.0},
    "lto": {"objective": "lto", "trainable": ["all"], "lambda_primary": 0.1, "lambda_harmful": 0.1},
    "simulated_attackers": {"objective": "simulated_attackers"},
    "purge": {"objective": "purge"},
}
#: The same objective where it protects less, where the primary spectrum weighs more, and in fewer steps: what each
#: point of protection costs.
PRICES: dict[str, dict[str, Any]] = {
    "simulated_attackers:0.1": {"objective": "simulated_attackers", "lambda_harmful": 0.1},
    "simulated_attackers:0.3": {"objective": "simulated_attackers", "lambda_harmful": 0.3},
    "simulated_attackers:well": {"objective": "simulated_attackers", "lambda_primary": 3.0},
    "simulated_attackers:short": {"objective": "simulated_attackers", "max_steps": 400},
}
METHODS |= PRICES
SINGLE_SEED = [name for name in METHODS if name not in ("control", "simulated_attackers")]
#: The search on each model: five ways to fine-tune with 26 settings, ten heads; the images that it has, and those that
#: judge it.
BUDGETS = {
    "harmful": Budgets(samples=(None,), steps=(1000,), finetune_steps=(10, 30, 100, 300), seeds=(0,)),
    "benign": Budgets(samples=(None,), steps=(1000,), finetune_steps=(10, 30, 100), seeds=(0,)),
}
TASKS = ("primary", "harmful")
N_ATTACK, N_JUDGE = 2_000, 1_000


def arguments(method: str, seed: int, folder: str = "") -> ImmunizationArguments:
    """Of a method's training."""
    args = ImmunizationArguments(folder, **(QUIET | {"seed": seed} | METHODS[method]))
    return args.as_control() if method == "control" else args


def recipe(name: str, seed: int, attackers: list[str]) -> dict[str, Any]:
    """What decides a row: another recipe is another row."""
    return {"name": name, "seed": seed, "changes": METHODS.get(name, {}), "attackers": attackers}


def run(case: str, name: str, seed: int, data: Path, work: Path, attackers: list[str]) -> dict[str, Any]:
    """One model: made, measured and attacked; or why it stopped."""
    start = begin(case, data, work)
    row: dict[str, Any] = {"recipe": recipe(name, seed, attackers)}
    model = start.models["initial" if name in METHODS else name]
    if name in METHODS:
        try:
            file = work / case / f"{name.replace(':', '-')}-{seed}.safetensors"
            model, results, row["seconds"] = trained(start, name, seed, file)
        except FloatingPointError as error:
            return row | {"stopped": str(error).split(";")[0]}
    else:
        results = measured(start, model)
    if name not in ("public", "random"):
        # Their heads are drawn at random.
        row["primary_accuracy"] = results["primary_accuracy"]["immunized"]
    if name in METHODS:
        row["rir"] = results["rir"]["immunized"]
    return row | attack(start, model, attackers)


def trained(start: Begin, name: str, seed: int, file: Path) -> tuple[torch.nn.Module, dict[str, Any], float]:
    """θ0 after a method, what was measured, and the seconds that both took.

    Weights stay beside θ0's, for other attackers another time.
    """
    model = copy.deepcopy(start.models["initial"])
    changes = json.dumps(METHODS[name], sort_keys=True)
    if file.exists():
        with safe_open(file, "pt") as kept:
            facts = kept.metadata()
        if facts["changes"] == changes:
            load_model(model, file)
            return model, measured(start, model), float(facts["seconds"])
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        tasks = {task: start.data[task] for task in TASKS}
        found = immunize(model, **tasks, args=arguments(name, seed, folder), control=False, attackers=None)
    assert found is not None
    seconds, model = round(time.perf_counter() - began, 1), found.model.cpu().eval()
    with whole_file(file) as unfinished:
        save_model(model, str(unfinished), {"changes": changes, "seconds": str(seconds)})
    return model, found.results, seconds


def measured(start: Begin, model: torch.nn.Module) -> dict[str, Any]:
    """Accuracy and RIR."""
    both = {"initial": start.models["initial"], "immunized": model}
    return measure(both, {task: start.data[task] for task in TASKS}, attackers=None)


def attack(start: Begin, model: torch.nn.Module, attackers: list[str]) -> dict[str, Any]:
    """What the strongest attackers of each kind reach on the harmful and on the benign task, by steps."""
    few = {
        task: (first(train, N_ATTACK), first(evaluation, N_JUDGE)) for task, (train, evaluation) in start.data.items()
    }
    device = "cuda" if torch.cuda.is_available() else None
    found: dict[str, Any] = {}
    for task, budgets in BUDGETS.items():
        suite = AttackSuite(
            {"initial": model},
            *few[task],
            primary=few["primary"][0],
            attackers=attackers,
            budgets=budgets,
            scratch=False,
            device=device,
        )
        of_model = suite.run(["initial"])["initial"]
        found[task] = {
            kind: {
                step: {"attacker": one["attacker"], "accuracy": round(one["mean"], 4), "settings": tried[step]["tried"]}
                for step, one in steps.items()
            }
            for kind, by_model in of_model.worst_case.items()
            for steps, tried in [(list(by_model["initial"].values())[-1], of_model.trials[kind]["initial"])]
        }
    return found


def main() -> None:
    """Runs what is not there yet, prints the tables and draws a figure for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with Fashion-MNIST's four idx .gz files")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/methods"), help="results, figures, θ0")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--methods", nargs="+", choices=[*REFERENCES, *METHODS], default=[*REFERENCES, *METHODS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--attackers", nargs="+", default=["all"])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--report_only", action="store_true", help="run nothing: table and figures of what is there")
    options = parser.parse_args()
    command = "python scripts/compare_methods.py --data DIR"
    results = Results(options.output_dir / "methods.json", command)
    if not options.report_only:
        if options.data is None:
            parser.error("--data is needed, except with --report_only")
        context = get_context("spawn")
        with ProcessPoolExecutor(options.processes, mp_context=context, initializer=_quiet) as pool:
            places = (options.data, options.output_dir)
            for one in tqdm([pool.submit(_begin, case, *places) for case in options.cases], desc="θ0 and ceilings"):
                one.result()
            jobs = [
                (case, name, seed)
                for case in options.cases
                for name in options.methods
                for seed in (options.seeds if name in METHODS and name not in SINGLE_SEED else options.seeds[:1])
            ]
            waiting = {
                pool.submit(run, *job, *places, options.attackers): "/".join(map(str, job))
                for job in jobs
                if not results.done("/".join(map(str, job)), recipe(*job[1:], options.attackers))
            }
            try:
                keep_each(waiting, "models", results.add)
            finally:
                _write(results, options.output_dir)
        return
    if not results.values["rows"]:
        parser.error(f"{results.path} is not there or has no runs")
    _write(results, options.output_dir)


def _write(results: Results, folder: Path) -> None:
    text = report(results)
    (folder / "methods.md").write_text(text + "\n", encoding="utf-8")
    draw(results, folder)
    print(text)


def _begin(case: str, data: Path, work: Path) -> None:
    begin(case, data, work)


def _quiet() -> None:
    torch.set_num_threads(1)
    transformers_logging.set_verbosity_error()
    disable_progress_bars()


if __name__ == "__main__":
    main()
