"""``hf-immunize attack``: many attackers on a model, on θ0, the control and random weights, and the worst case."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch

from hf_immunize.attacks.attacker import choose_attackers
from hf_immunize.attacks.judging import Budgets
from hf_immunize.attacks.report import REPORT_NAME, AttackReport
from hf_immunize.attacks.suite import MOST_ATTACKED, run_attacks
from hf_immunize.cli.config import parse
from hf_immunize.cli.options import (
    AttackOptions,
    FinetuneOptions,
    HubCallOptions,
    ReadOptions,
    budgets_of,
    most_of,
    named_rows,
    task_options,
)
from hf_immunize.cli.pair import prepare_alike, reader_of, say_if_beside_itself
from hf_immunize.cli.parser import VerbParser
from hf_immunize.cli.printing import required, say, stdout_for_results
from hf_immunize.data.task import load_task
from hf_immunize.data.whole_files import whole_file
from hf_immunize.errors import InputError, OutputExistsError
from hf_immunize.models.extraction import MapStyle
from hf_immunize.models.loaded import LoadedModel
from hf_immunize.models.loading import load_model
from hf_immunize.release.certify import certified
from hf_immunize.release.figures import ATTACKS_NAME, TRIALS_NAME, plot_attacks, plot_trials, save_figure
from hf_immunize.release.record import DatasetRecord, ImmunizationRecord
from hf_immunize.release.target import check_can_be_made, claimed
from hf_immunize.release.update import check_beside, update_release
from hf_immunize.training.recording import data_facts

__all__ = ["parser", "run"]

TASKS = {
    "harmful": "The task to attack",
    "primary": "For the attacker that trains on it first",
    "benign": "A task that training never saw, to see what the immunization costs there",
}
#: Models that are attacked beside the two, in the words of the options.
BESIDE = ("control", "primary_only", "public")


def parser() -> VerbParser:
    """The options of the verb."""
    data = (task_options(task, what) for task, what in TASKS.items())
    return VerbParser(
        "attack",
        [*data, AttackOptions, FinetuneOptions, ReadOptions, HubCallOptions],
        "Fits harmful heads and fine-tunes with many attackers, on the model, on the one that it started from and on "
        "random weights, and reports the strongest at each budget, what it recovers and a verdict.",
        positional=("model", "the immunized model: Hub id (with @revision) or folder"),
    )


def run(given: Sequence[str], command: str) -> int:
    """Attacks as the options say, and prints the report."""
    options = parse(parser(), given)
    required("attack", options, "model", "base", "harmful")
    say_if_beside_itself(options)
    # A typing mistake, a missing package or a folder that cannot be is said before anything is loaded.
    choose_attackers(options.attackers)
    budgets = budgets_of(options, Budgets())
    options.max_samples = most_of(options, MOST_ATTACKED)
    folder = _target(options)
    release = certified(Path(options.model).expanduser()) if options.update_release else None
    with contextlib.ExitStack() as stack:
        if folder is not None:
            stack.enter_context(claimed(folder))
        report = _attacked(options, budgets, release)
        written = [] if folder is None else _write(folder, report)
    if release is not None:
        written.append(update_release(options.model, {"attacks": report.to_dict()}))
    print(json.dumps(report.to_dict(), indent=2) if options.json else report)
    if not options.json:
        for path in written:
            print(path)
    return 0


def _attacked(options: argparse.Namespace, budgets: Budgets, release: ImmunizationRecord | None) -> AttackReport:
    with stdout_for_results(options.json):
        loading = {"token": options.token, "trust_remote_code": options.trust_remote_code}
        models = {
            name: load_model(getattr(options, name), **loading)
            for name in ("model", "base", *BESIDE)
            if getattr(options, name) is not None
        }
        if release is not None:
            beside = {"initial": models["base"]} | {name: models[name] for name in BESIDE if name in models}
            check_beside(Path(options.model).expanduser(), release, beside)
        reader = reader_of(models["model"], models["base"])
        for name in ("primary_only", "public"):
            if name in models:
                _check_reads_alike(models[name], reader, name)
        named = [task for task in TASKS if getattr(options, task) is not None]
        sets = {task: _inputs(options, task, reader, release) for task in named}
        fit_on, judge_by = sets.get("benign", (None, None))
        return run_attacks(
            models["model"].model,
            models["base"].model,
            *sets["harmful"],
            **cast("Any", {name: models[name].model for name in BESIDE if name in models}),
            primary=sets["primary"][0] if "primary" in sets else None,
            benign_train=fit_on,
            benign_test=judge_by,
            attackers=options.attackers,
            budgets=budgets,
            scratch=options.scratch,
            max_samples=options.max_samples,
            seed=options.seed,
            batch_size=options.batch_size,
            device="cuda" if torch.cuda.is_available() else None,
            progress=not options.json,
        )


def _check_reads_alike(model: LoadedModel, reader: LoadedModel, name: str) -> None:
    """All models are given the same inputs: a ceiling that reads pictures otherwise would look too low."""
    if model.image_processor is None:
        say([f"{name}: it holds no image processor, and is taken to read what that of the model makes."])
        return
    if not prepare_alike(model, reader):
        raise InputError(
            f"The image processor of --{name} prepares pictures otherwise than that of the model (size, mean or "
            "scale), and all models are attacked on the same inputs. Save it with the processor of the model, if it "
            "can read such inputs, and name that folder."
        )


def _target(options: argparse.Namespace) -> Path | None:
    if options.output_dir is None:
        return None
    folder = Path(options.output_dir).expanduser()
    check_can_be_made(folder)
    there = [folder / name for name in (REPORT_NAME, ATTACKS_NAME, TRIALS_NAME) if (folder / name).exists()]
    if there and not options.overwrite:
        raise OutputExistsError(f"{there[0]} exists. Name another folder, or replace it with --overwrite.")
    return folder


def _inputs(
    options: argparse.Namespace, task: str, reader: LoadedModel, release: ImmunizationRecord | None
) -> tuple[MapStyle, MapStyle]:
    most = options.max_samples if options.streaming else None
    found = load_task(
        getattr(options, task),
        **named_rows(options, task),
        max_train_samples=most,
        max_eval_samples=most,
        labels="needed",
        seed=options.seed,
        token=options.token,
    )
    say([f"{task}: {found.name}, fitted on {found.split}, judged on {found.eval_split}", *found.notes])

    facts: DatasetRecord | None = None if release is None else getattr(release, task)
    if release is not None and (facts is None or facts.eval_fingerprint != data_facts(found).eval_fingerprint):
        raise InputError(
            f"The {task} rows to judge by are not those that the release was measured on, so that its card cannot hold "
            "both. Name the same data, splits and seed, or leave --update_release away and use --output_dir."
        )
    return found.inputs(reader.image_processor, n_channels=reader.n_channels, name=task)


def _write(folder: Path, report: AttackReport) -> list[Path]:
    figures = {ATTACKS_NAME: plot_attacks(report), TRIALS_NAME: plot_trials(report)}
    written = [report.save(folder)]
    for name, figure in figures.items():
        if figure is not None:
            with whole_file(folder / name) as unfinished:
                save_figure(figure, unfinished)
            written.append(folder / name)
    return written
