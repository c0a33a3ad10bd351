"""``hf-immunize train``: a call of :func:`hf_immunize.immunize`, and the released folder."""

from __future__ import annotations

import argparse
import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from hf_immunize.attacks.suite import CARD_BUDGETS
from hf_immunize.cli.config import command_of, parse
from hf_immunize.cli.options import (
    CallOptions,
    FinetuneOptions,
    ReadOptions,
    ReleaseOptions,
    TrainOptions,
    budgets_of,
    named_rows,
    task_options,
)
from hf_immunize.cli.parser import VerbParser
from hf_immunize.cli.printing import finish, required, say, stdout_for_results
from hf_immunize.cli.refusals import check_has_a_name, check_keep, check_pushing, kept_models
from hf_immunize.data.task import ImageTask, load_task
from hf_immunize.errors import InputError, OutputExistsError, writing
from hf_immunize.objectives.registry import OBJECTIVES
from hf_immunize.release.hub import check_can_push, push_to_hub
from hf_immunize.release.record import RECORD_NAME, ImmunizationRecord
from hf_immunize.release.target import check_target, claimed
from hf_immunize.training.arguments import ImmunizationArguments
from hf_immunize.training.immunize import immunize
from hf_immunize.training.locking import locked
from hf_immunize.training.stages import MEASURED
from hf_immunize.training.theta_zero import THETA_ZERO_NAME
from hf_immunize.training.what_trains import check_immunizes

__all__ = ["parser", "run"]

TASKS = {
    "primary": "The task to keep",
    "harmful": "The task to make slow",
    "benign": "A task that training does not see, to measure what the immunization costs there",
}

#: What a run writes into the folder of its checkpoints.
WRITTEN_BESIDE = ("checkpoint-*", "fit", "control", "primary_only", f"{MEASURED}-*", THETA_ZERO_NAME)


def parser() -> VerbParser:
    """The options of the verb."""
    data = (task_options(task, what) for task, what in TASKS.items())
    kinds = [TrainOptions, ReleaseOptions, FinetuneOptions, *data, ReadOptions, CallOptions, ImmunizationArguments]
    return VerbParser(
        "train",
        kinds,
        "Immunize a classifier: train its last stage on the primary task, with regularizers that make harmful fits "
        "slow. Checkpoints go to OUTPUT_DIR-checkpoints.",
    )


def run(given: Sequence[str], command: str) -> int:
    """Immunizes as the options say, writes the release, and prints it."""
    own = parser()
    options = parse(own, given)
    required("train", options, "model", "primary", "harmful", "output_dir")
    check_pushing(options)
    check_keep(options.keep, _kept(options))
    if options.fit_learning_rate is not None and options.fit_steps < 1:
        raise InputError("--fit_learning_rate is that of the fit before, and there is none. Give --fit_steps too.")
    folder, goes_on = Path(options.output_dir).expanduser(), bool(options.resume_from_checkpoint)
    check_has_a_name(folder)
    work = folder.with_name(folder.name + "-checkpoints")
    # What this very run has released already, it may release again.
    check_target(folder, options.overwrite or (goes_on and _is_release_of(folder, work)))
    _check_checkpoints(work, options)
    args = own.of(
        ImmunizationArguments,
        options,
        output_dir=str(work),
        # The release goes up below, not the checkpoints.
        push_to_hub=False,
        disable_tqdm=True if options.json else options.disable_tqdm,
    )
    check_immunizes(args.made_objective())
    attackers, budgets = options.attackers or None, budgets_of(options, CARD_BUDGETS)
    if attackers is None:
        say(["no attackers were named: the release will say nothing of attacks."])
    repo_id = options.hub_model_id or folder.name
    if options.push_to_hub and args.should_save:
        check_can_push(repo_id, token=options.hub_token)
    with contextlib.ExitStack() as stack:
        stack.enter_context(stdout_for_results(options.json))
        if args.should_save:
            stack.enter_context(claimed(folder))
            stack.enter_context(locked(work))
            if not goes_on:
                _remove_checkpoints(work)
        tasks = {task: _task(options, task, args) for task in TASKS if getattr(options, task) is not None}
        for task, one in tasks.items():
            say([f"{task}: {one.name}, trained on {one.split}, measured on {one.eval_split}", *one.notes])
        check_keep(options.keep, _kept(options, labelled=tasks["harmful"].label_column is not None))
        finished = immunize(
            options.model,
            tasks["primary"],
            tasks["harmful"],
            args,
            benign=tasks.get("benign"),
            new_head=options.new_head,
            fit_steps=options.fit_steps,
            fit_learning_rate=options.fit_learning_rate,
            control=options.control,
            attackers=attackers,
            budgets=budgets,
            ceilings=options.ceilings,
            ceiling_steps=options.ceiling_steps,
            token=options.hub_token,
            trust_remote_code=options.trust_remote_code,
            command=command_of(parser(), options),
        )
        if finished is None:
            return 0
        with writing(folder, "Make room, and go on with --resume_from_checkpoint: what was measured is kept."):
            finished.save(folder, keep=options.keep, overwrite=options.overwrite or goes_on)
    status = finish(folder, finished.record, options.json)
    if options.push_to_hub:
        commit = push_to_hub(
            *(folder, repo_id),
            private=options.hub_private_repo,
            token=options.hub_token,
            revision=options.hub_revision,
        )
        say([f"pushed: {commit.commit_url}"])
    return status


def _kept(options: argparse.Namespace, labelled: bool = True) -> list[str]:
    return kept_models(options, control=options.control, fit=options.fit_steps > 0, labelled=labelled)


def _task(options: argparse.Namespace, task: str, args: ImmunizationArguments) -> ImageTask:
    harmful = task == "harmful" and not OBJECTIVES[args.objective].needs_harmful_labels
    return load_task(
        getattr(options, task),
        **named_rows(options, task),
        labels="optional" if harmful else "needed",
        seed=args.seed,
        token=options.hub_token,
        max_train_samples=options.max_train_samples,
        max_eval_samples=options.max_eval_samples,
    )


def _check_checkpoints(work: Path, options: argparse.Namespace) -> None:
    """Checkpoints of an earlier run must neither be missed by a resume nor be taken for this run's."""
    resumes = options.resume_from_checkpoint
    if str(resumes).lower() in ("last", "true") and not work.is_dir():
        raise InputError(
            f"{work} holds no checkpoint to go on from. Leave --resume_from_checkpoint away to start anew."
        )
    found = sorted(work.rglob("checkpoint-*"))
    if found and not resumes and not options.overwrite:
        raise OutputExistsError(
            f"{work} holds checkpoints of an earlier run ({found[-1].name}). Go on from the last one with "
            "--resume_from_checkpoint, or start anew with --overwrite, which removes them."
        )


def _is_release_of(folder: Path, work: Path) -> bool:
    """Whether the results in a release are those that the run with these checkpoints measured."""
    if not (folder / RECORD_NAME).is_file():
        return False
    released, *measured = (
        ImmunizationRecord.load(one).to_dict()["results"] for one in (folder, *work.glob(f"*/{RECORD_NAME}"))
    )
    return released in measured


def _remove_checkpoints(work: Path) -> None:
    for pattern in WRITTEN_BESIDE:
        for one in work.glob(pattern):
            shutil.rmtree(one) if one.is_dir() else one.unlink()
