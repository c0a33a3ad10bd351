"""λ_P × λ_H on a small budget, before a long run: what each pair of weights costs, and what it gains.

    python scripts/sweep.py --config run.yaml --lambda_primary 0.25 0.5 1 2 --lambda_harmful 0.1 0.3 1
    python scripts/sweep.py --model ID --primary DATASET --harmful DATASET --max_steps 50 --output_dir runs/sweep

Options and the file of --config are those of `hf-immunize train` (`hf-immunize train --help`), apart from these:

* every pair of --lambda_primary and --lambda_harmful is a cell: one immunization from the same θ0, with 100 steps
  unless --max_steps on the command line says otherwise, and with at most 5,000 images of a task to train and to measure
  on unless --max_train_samples and --max_eval_samples do;
* λ = 0, the control, is trained once, and the accuracy of each cell is compared with it;
* the attackers are ridge regression alone, with one seed, unless --attackers on the command line names others;
* figures are written to sweep.json in --output_dir, cell by cell: after Ctrl-C the same command goes on where it
  stopped. Nothing is released or uploaded: run `hf-immunize train` with the pair that you chose.

The frozen part of the model runs once over the images for all cells. A cell then takes its steps on the last stage,
and one pass over the harmful images with random weights, the reference of the recovery. On one slow CPU core a cell of
60 steps took 50 seconds for an EfficientNet-Lite0 with 2,000 training images of 64 px a task, a quarter of it training.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import hashlib
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from datasets import disable_progress_bars
from paper.results import Results
from paper.sweep_table import CONTROL, table
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm
from transformers import set_seed

from hf_immunize.attacks import Budgets
from hf_immunize.attacks.attacker import choose_attackers
from hf_immunize.attacks.report import AttackReport
from hf_immunize.attacks.suite import MOST_ATTACKED
from hf_immunize.cli.config import parse
from hf_immunize.cli.options import named_rows
from hf_immunize.cli.parser import VerbParser
from hf_immunize.cli.train import parser as train_parser
from hf_immunize.data.task import ImageTask, load_task
from hf_immunize.data.whole_files import whole_file
from hf_immunize.errors import InputError, UserError
from hf_immunize.models.activations import ActivationStore
from hf_immunize.models.loaded import LoadedModel
from hf_immunize.models.loading import load_model
from hf_immunize.release.privacy import redact_tokens
from hf_immunize.training.arguments import ImmunizationArguments
from hf_immunize.training.finite import NonFiniteLossError
from hf_immunize.training.immunize import Immunization, immunize
from hf_immunize.training.recording import data_facts

LAMBDA_PRIMARY, LAMBDA_HARMFUL = (0.25, 0.5, 1.0, 2.0), (0.1, 0.3, 1.0)
STEPS, MAX_DROP = 100, 1.0
BUDGETS = Budgets(samples=(10, None), steps=(10, 30, 100, 300), seeds=(0,))
TASKS = ("primary", "harmful", "benign")
#: Arguments of a training that do not decide its figures, or that are the cell's own.
BESIDE = ("disable_tqdm", "eval_steps", "hub_", "lambda_", "log", "output_dir", "push_to_hub", "report_to", "run_name")


def options_of(given: Sequence[str]) -> tuple[argparse.Namespace, argparse.Namespace, VerbParser]:
    """The sweep's own options, those of `hf-immunize train`, and the parser of the latter."""
    own = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    own.add_argument("--lambda_primary", type=float, nargs="+", default=list(LAMBDA_PRIMARY), metavar="λ_P")
    own.add_argument("--lambda_harmful", type=float, nargs="+", default=list(LAMBDA_HARMFUL), metavar="λ_H")
    own.add_argument("--max_steps", type=int, default=STEPS, help=f"of each cell ({STEPS})")
    own.add_argument("--attackers", nargs="*", default=["ridge"], metavar="NAME", help="as of train; nothing for none")
    own.add_argument(
        "--max_accuracy_drop",
        type=float,
        default=MAX_DROP,
        help=f"points of primary accuracy against the control that a marked cell costs at most ({MAX_DROP:g})",
    )
    own.add_argument("--output_dir", type=Path, default=Path("runs/sweep"))
    options, rest = own.parse_known_args(given)
    training = train_parser()
    steps = ["--max_steps", str(options.max_steps), "--output_dir", str(options.output_dir)]
    return options, parse(training, [*rest, *steps]), training


def tasks_of(train: argparse.Namespace, args: ImmunizationArguments) -> dict[str, ImageTask]:
    """The tasks that are named, each with at most as many images as attackers are given."""
    found = {}
    for task in TASKS:
        if getattr(train, task) is None:
            continue
        found[task] = load_task(
            getattr(train, task),
            **named_rows(train, task),
            labels="optional" if task == "harmful" and args.objective != "imma" else "needed",
            seed=args.seed,
            token=train.hub_token,
            max_train_samples=train.max_train_samples or MOST_ATTACKED,
            max_eval_samples=train.max_eval_samples or MOST_ATTACKED,
        )
    return found


def model_of(train: argparse.Namespace, primary: ImageTask, args: ImmunizationArguments) -> LoadedModel:
    """The model that is named, with a new head for the primary classes where that is asked for."""
    classes = None
    if train.new_head:
        labels = primary.train.with_format(None)[primary.label_column]
        classes = primary.classes or [str(index) for index in range(int(max(labels)) + 1)]
    # The new head is drawn here, and must be the same when the sweep goes on.
    set_seed(args.seed)
    return load_model(train.model, labels=classes, token=train.hub_token, trust_remote_code=train.trust_remote_code)


def settings_of(
    base: LoadedModel,
    tasks: dict[str, ImageTask],
    args: ImmunizationArguments,
    train: argparse.Namespace,
    attackers: Sequence[str],
) -> dict[str, Any]:
    """All that decides a cell beside its λ."""
    digest = hashlib.sha256()
    for name, value in base.model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    training = {name: value for name, value in args.to_dict().items() if not name.startswith(BESIDE)}
    return {
        "model": {"name": base.name, "revision": base.revision, "weights": digest.hexdigest()},
        **{task: asdict(data_facts(one)) for task, one in tasks.items()},
        "fit": [train.fit_steps, train.fit_learning_rate],
        "training": training,
        "attackers": list(attackers),
        "budgets": asdict(BUDGETS),
    }


def row_of(finished: Immunization) -> dict[str, Any]:
    """The figures of a cell."""
    results = finished.results
    row = {
        "primary_accuracy": results["primary_accuracy"]["immunized"],
        "initial_primary_accuracy": results["primary_accuracy"]["initial"],
        "rir": results["rir"]["immunized"],
        "seconds": finished.record.training["total_seconds"],
    }
    if "attacks" in results:
        report = AttackReport.from_dict(results["attacks"])
        for name in ("initial", "immunized"):
            attacker, accuracy = report.strongest(name)
            row[f"{name}_strongest"] = {"attacker": attacker, "accuracy": accuracy}
        row["recovery"] = report.recovery[row["immunized_strongest"]["attacker"]]
        if report.selectivity:
            row["benign_accuracy"] = report.selectivity["immunized"]["mean"]
        row["attacks"] = results["attacks"]
    return row


def sweep(given: Sequence[str]) -> None:
    """Runs what is not there yet, and prints the table of what is."""
    options, train, training = options_of(given)
    missing = [name for name in ("model", "primary", "harmful") if not getattr(train, name)]
    if missing:
        raise InputError(f"A sweep needs {', '.join('--' + name for name in missing)}, here or in --config.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("A sweep runs in one process. Start it without torchrun or accelerate launch.")
    if options.attackers:
        choose_attackers(options.attackers)
    # Each λ is checked now, and not after the cells before it.
    args = training.of(ImmunizationArguments, train)
    quiet = {"logging_strategy": "no", "disable_tqdm": True, "report_to": "none"}
    grid = [(primary, harmful) for primary in options.lambda_primary for harmful in options.lambda_harmful]
    cells_args = {
        f"{primary:g}|{harmful:g}": args.as_control(
            objective=args.objective, lambda_primary=primary, lambda_harmful=harmful, **quiet
        )
        for primary, harmful in grid
    }
    control_args = args.as_control(**quiet)
    # The Trainer prints a summary of each run whatever it is told.
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        tasks = tasks_of(train, args)
        for task, one in tasks.items():
            for note in one.notes:
                print(f"sweep: {task}: {note}", file=sys.stderr)
        base = model_of(train, tasks["primary"], args)
        settings = settings_of(base, tasks, control_args, train, options.attackers)
        settings["training"]["objective"] = args.objective
        options.output_dir.mkdir(parents=True, exist_ok=True)
        command = redact_tokens(shlex.join(["python", "scripts/sweep.py", *given]))
        cells = Results(options.output_dir / "sweep.json", command, settings=settings)
        processor = base.require_processor()
        call: dict[str, Any] = {
            **{task: one.inputs(processor, n_channels=base.n_channels) for task, one in tasks.items()},
            "control": False,
            "attackers": options.attackers or None,
            "budgets": BUDGETS,
            "activations": ActivationStore(),
        }
        left = [key for key in (CONTROL, *cells_args) if key not in cells]
        initial: nn.Module | None = None
        for key in tqdm(left, desc="cells", disable=not left):
            if initial is None:
                initial = theta_zero(base, options.output_dir, cells, control_args, train, call)
            if key == CONTROL:
                continue
            with tempfile.TemporaryDirectory() as folder:
                of_cell = replace_output(cells_args[key], folder)
                start = replace(base, model=copy.deepcopy(initial), new_head=False)
                try:
                    finished = immunize(start, args=of_cell, **call)
                except NonFiniteLossError as error:
                    cells.add(key, {"stopped": str(error).split(";")[0]})
                    continue
            assert finished is not None
            cells.add(key, row_of(finished))
    print(table(cells.values["rows"], grid, options.max_accuracy_drop))


def replace_output(args: ImmunizationArguments, folder: str) -> ImmunizationArguments:
    """The same arguments with another output folder."""
    kept = {name: getattr(args, name) for name in ("objective", "lambda_primary", "lambda_harmful")}
    return args.as_control(output_dir=folder, **kept)


def theta_zero(
    base: LoadedModel,
    folder: Path,
    cells: Results,
    args: ImmunizationArguments,
    train: argparse.Namespace,
    call: dict[str, Any],
) -> nn.Module:
    """θ0 of all cells: the model as it is, or after its fit. The control, which starts there, is trained with it."""
    kept = folder / "initial.safetensors"
    if CONTROL in cells and kept.exists():
        base.model.load_state_dict(load_file(kept), strict=False)
        return base.model
    with tempfile.TemporaryDirectory() as work:
        finished = immunize(
            base,
            args=replace_output(args, work),
            fit_steps=train.fit_steps,
            fit_learning_rate=train.fit_learning_rate,
            **call,
        )
    assert finished is not None
    initial = finished.initial
    trained = {name: one.detach().contiguous() for name, one in initial.named_parameters() if one.requires_grad}
    with whole_file(kept) as unfinished:
        save_file(trained, unfinished)
    cells.add(CONTROL, row_of(finished))
    return initial


def main(given: Sequence[str] | None = None) -> int:
    """The exit status: 0, 1 for a mistake that can be mended, 130 for Ctrl-C."""
    disable_progress_bars()
    try:
        sweep(list(sys.argv[1:] if given is None else given))
    except KeyboardInterrupt:
        print("\nStopped. Finished cells are kept; the same command goes on.", file=sys.stderr)
        return 130
    except UserError as error:
        print(f"sweep: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
