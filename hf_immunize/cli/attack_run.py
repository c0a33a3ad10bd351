"""What ``hf-immunize attack`` does, from options to a report and its figure."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Subset

from hf_immunize.attacks import AttackReport, Budgets, run_attacks
from hf_immunize.attacks.attacker import choose_attackers
from hf_immunize.attacks.report import REPORT_NAME
from hf_immunize.cli.command_data import check_processor, load_task, model_inputs
from hf_immunize.errors import OutputExistsError
from hf_immunize.models.loading import LoadedModel, load_model
from hf_immunize.release.figures import ATTACKS_NAME, plot_attacks, save_figure

__all__ = ["run_attack"]


def run_attack(options: argparse.Namespace) -> tuple[AttackReport, list[Path]]:
    """Attacks a model as the options of ``hf-immunize attack`` say.

    Returns:
        the report, and the files written to ``--output_dir``, if one was given.

    Raises:
        ValueError: options, data or models that do not fit together; unknown attackers.
        FileExistsError: ``--output_dir`` holds a report.
    """
    # A typing mistake or a missing package is said before anything is loaded.
    choose_attackers(options.attackers)
    given = ("samples", "steps", "finetune_samples", "finetune_steps", "seeds")
    budgets = Budgets(**{name: value for name in given if (value := getattr(options, name)) is not None})
    folder = None if options.output_dir is None else Path(options.output_dir)
    if folder is not None and (folder / REPORT_NAME).exists() and not options.overwrite:
        raise OutputExistsError(f"{folder / REPORT_NAME} exists. Name another folder, or replace it with --overwrite.")
    models = {
        name: load_model(getattr(options, name))
        for name in ("model", "base", "control")
        if getattr(options, name) is not None
    }
    check_processor(models["base"])
    sets = {
        task: _inputs(options, task, models["base"])
        for task in ("harmful", "primary", "benign")
        if getattr(options, task) is not None
    }
    fit_on, judge_by = sets.get("benign", (None, None))
    report = run_attacks(
        models["model"].model,
        models["base"].model,
        *sets["harmful"],
        control=models["control"].model if "control" in models else None,
        primary=sets["primary"][0] if "primary" in sets else None,
        benign_train=fit_on,
        benign_test=judge_by,
        attackers=options.attackers,
        budgets=budgets,
        scratch=options.scratch,
        batch_size=options.batch_size,
        device="cuda" if torch.cuda.is_available() else None,
        progress=not options.json,
    )
    if folder is None:
        return report, []
    folder.mkdir(parents=True, exist_ok=True)
    figure = plot_attacks(report)
    with tempfile.TemporaryDirectory(dir=folder) as unfinished:
        drawn = save_figure(figure, Path(unfinished) / ATTACKS_NAME)
        os.replace(drawn, folder / ATTACKS_NAME)
    return report, [report.save(folder), folder / ATTACKS_NAME]


def _inputs(options: argparse.Namespace, task: str, loaded: LoadedModel) -> tuple[Subset, Subset]:
    train, evaluation, _ = load_task(options, task)

    def taken(rows: Any) -> Subset:
        data = model_inputs(loaded, options, task, rows)
        order = np.random.default_rng(options.seed).permutation(len(data))[: options.max_samples]
        return Subset(data, order.tolist())

    return taken(train), taken(evaluation)
