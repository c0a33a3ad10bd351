"""What ``hf-immunize train`` and ``hf-immunize evaluate`` do, from options to a released folder or a report."""

from __future__ import annotations

import argparse
import copy
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset
from torch.utils.data import Subset
from transformers import set_seed

from hf_immunize.attacks import AttackReport, run_attacks
from hf_immunize.attacks.suite import CARD_BUDGETS
from hf_immunize.cli.command_data import check_processor, evaluation_rows, load_task, model_inputs
from hf_immunize.data.images import ImageInputs, collate_images
from hf_immunize.data.labels import check_labels, whole_numbers
from hf_immunize.data.sources import find_columns
from hf_immunize.errors import InputError, OutputExistsError
from hf_immunize.metrics.evaluation import Protocol, RIRReport, evaluate_immunization
from hf_immunize.models.head import find_head
from hf_immunize.models.loading import LoadedModel, load_model
from hf_immunize.release.folder import check_target, save_immunized
from hf_immunize.release.measure import measure_release, training_facts
from hf_immunize.release.record import DatasetRecord, ImmunizationRecord
from hf_immunize.training.arguments import ImmunizationArguments
from hf_immunize.training.trainer import ImmunizationTrainer

__all__ = ["run_evaluation", "run_training"]


def run_training(options: argparse.Namespace) -> tuple[Path, ImmunizationRecord] | None:
    """Immunizes as the options of ``hf-immunize train`` say, and writes the release.

    Returns:
        the folder and its record; None on the processes that only help (under torchrun).

    Raises:
        ValueError: options, data or model that do not fit together, said before any training.
        FileExistsError: the output folder holds something.
    """
    folder = check_target(options.output_dir, options.overwrite)
    work = folder.with_name(folder.name + "-checkpoints")
    _check_checkpoints(work, options)
    immunization = _arguments(options, work)
    control = _arguments(options, work, control=True) if options.control else None
    tasks = ("primary", "harmful", *(("benign",) if options.benign else ()))
    sources = {task: load_task(options, task) for task in tasks}
    names = _class_names(sources["primary"][0], options.primary_label_column)
    # A new head is drawn here, and must be the same in every process and after a resume.
    set_seed(options.seed)
    loaded = load_model(options.model, labels=names if options.new_head else None)
    check_processor(loaded)
    data = {
        task: tuple(
            model_inputs(loaded, options, task, part, task != "harmful" or options.objective == "imma")
            for part in parts[:2]
        )
        for task, parts in sources.items()
    }
    _check_head(loaded, data["primary"])
    if loaded.new_head and options.fit_steps < 1 and not options.resume:
        raise InputError(
            "The head is new and would be measured untrained. Fit the primary task first: --fit_steps 300, say."
        )
    model = loaded.model
    if options.fit_steps and not options.resume:
        fit = _arguments(options, work / "fit", control=True, max_steps=options.fit_steps)
        _trainer(model, fit, data, loaded, None).train()

    started = time.perf_counter()
    trainer = _trainer(model, immunization, data, loaded, data["harmful"])
    trainer.train(resume_from_checkpoint=True if options.resume else None)
    seconds = time.perf_counter() - started
    base = copy.deepcopy(model)
    base.load_state_dict(trainer.initial_state_dict())
    controlled = None
    if control is not None:
        controlled = copy.deepcopy(base)
        _trainer(controlled, control, data, loaded, None).train()
    if not trainer.is_world_process_zero():
        return None
    results = measure_release(
        model,
        base,
        controlled,
        data["primary"][1],
        *data["harmful"],
        benign=data.get("benign"),
        seed=options.seed,
        progress=not options.json,
    )
    record = _record(options, loaded, sources, trainer, results, seconds)
    save_immunized(folder, model.cpu(), record, loaded.image_processor, overwrite=options.overwrite)
    return folder, record


def run_evaluation(options: argparse.Namespace) -> tuple[RIRReport, AttackReport | None]:
    """Measures a model against its base as the options of ``hf-immunize evaluate`` say."""
    model, base = load_model(options.model), load_model(options.base)
    check_processor(base)
    sets = {}
    for task in ("primary", "harmful"):
        sets[task] = model_inputs(base, options, task, evaluation_rows(options, task), labels_needed=False)
    device = "cuda" if torch.cuda.is_available() else None
    report = evaluate_immunization(
        model.model,
        base.model,
        sets["primary"],
        sets["harmful"],
        protocol=Protocol(options.groups, options.group_size, options.seed),
        batch_size=options.batch_size,
        max_samples=options.max_samples,
        device=device,
        progress=not options.json,
    )
    if not options.attack:
        return report, None
    train, test = _halves(sets["harmful"], options.seed, options.max_samples)
    attacks = run_attacks(
        model.model,
        base.model,
        train,
        test,
        budgets=CARD_BUDGETS,
        batch_size=options.batch_size,
        device=device,
        progress=not options.json,
    )
    return report, attacks


def _arguments(options: argparse.Namespace, work: Path, control: bool = False, **changes: Any) -> ImmunizationArguments:
    evaluating = {"eval_strategy": "steps", "eval_steps": options.eval_steps} if options.eval_steps else {}
    patterns = options.trainable.split(",") if "," in options.trainable else options.trainable
    if isinstance(patterns, str) and patterns not in ("last", "all"):
        patterns = [patterns]
    values: dict[str, Any] = {
        "output_dir": str(work),
        "objective": "condition" if control else options.objective,
        "lambda_primary": 0.0 if control else options.lambda_primary,
        "lambda_harmful": 0.0 if control else options.lambda_harmful,
        "scale_free": options.scale_free,
        "trainable": patterns,
        "max_steps": options.max_steps,
        "num_train_epochs": options.num_train_epochs,
        "learning_rate": options.learning_rate,
        "warmup_steps": max(options.max_steps, 0) // 10,
        "per_device_train_batch_size": options.batch_size,
        "per_device_harmful_batch_size": options.harmful_batch_size,
        "gradient_accumulation_steps": options.gradient_accumulation_steps,
        "save_strategy": "no" if control else "steps",
        "save_steps": options.save_steps,
        "bf16": options.bf16,
        "use_cpu": options.use_cpu,
        "report_to": options.report_to,
        "seed": options.seed,
        "disable_tqdm": options.json,
        "dataloader_pin_memory": torch.cuda.is_available() and not options.use_cpu,
        "logging_steps": 20,
    }
    extra = {} if control else {**evaluating, **options.extra}
    if control:
        extra = {
            name: value for name, value in options.extra.items() if not name.startswith(("eval", "save", "load_best"))
        }
    return ImmunizationArguments(**(values | extra | changes))


def _check_checkpoints(work: Path, options: argparse.Namespace) -> None:
    """Checkpoints of an earlier run must neither be missed by --resume nor be taken for this run's."""
    found = sorted(work.glob("checkpoint-*"))
    if options.resume and not found:
        raise InputError(f"{work} holds no checkpoint to go on from. Leave --resume away to start anew.")
    if found and not options.resume:
        if not options.overwrite:
            raise OutputExistsError(
                f"{work} holds checkpoints of an earlier run ({found[-1].name}). Go on from the last one with "
                "--resume, or start anew with --overwrite, which removes them."
            )
        if int(os.environ.get("RANK", "0")) == 0:
            shutil.rmtree(work, ignore_errors=True)


def _check_head(loaded: LoadedModel, primary: tuple[ImageInputs, ImageInputs]) -> None:
    sample = collate_images([primary[0][0], primary[0][1]])["pixel_values"]
    n_classes = find_head(loaded.model, sample).n_classes
    for part, name in zip(primary, ("primary", "primary evaluation"), strict=True):
        try:
            check_labels(part.labels, n_classes, name)
        except ValueError as error:
            raise InputError(f"{error} On the command line: --new_head --fit_steps 300.") from error


def _trainer(
    model: Any, arguments: ImmunizationArguments, data: dict[str, Any], loaded: LoadedModel, harmful: Any
) -> ImmunizationTrainer:
    return ImmunizationTrainer(
        model,
        arguments,
        train_dataset=data["primary"][0],
        harmful_dataset=None if harmful is None else harmful[0],
        eval_dataset=data["primary"][1],
        harmful_eval_dataset=None if harmful is None else harmful[1],
        processing_class=loaded.image_processor,
    )


def _halves(data: ImageInputs, seed: int, most: int) -> tuple[Subset, Subset]:
    if data.labels is None:
        raise InputError(
            "--attack fits harmful heads and needs harmful labels. Name the column: --harmful_label_column."
        )
    rows = np.random.default_rng(seed).permutation(len(data))[:most].tolist()
    if len(rows) < 4:
        raise InputError(f"--attack needs more than {len(rows)} harmful images: half to fit on, half to judge by.")
    half = len(rows) // 2
    return Subset(data, rows[:half]), Subset(data, rows[half:])


def _class_names(data: Dataset, label_column: str | None) -> list[str]:
    _, label = find_columns(data, None, label_column)
    assert label is not None
    kind = data.features[label]
    if isinstance(kind, ClassLabel):
        return list(kind.names)
    numbers = whole_numbers(list(data.with_format(None)[label]), "primary")
    return [str(index) for index in range(int(numbers.max()) + 1)]


def _record(
    options: argparse.Namespace,
    loaded: LoadedModel,
    sources: dict[str, tuple[Dataset, Dataset, str]],
    trainer: ImmunizationTrainer,
    results: dict[str, Any],
    seconds: float,
) -> ImmunizationRecord:
    def described(task: str) -> DatasetRecord:
        train, evaluation, eval_split = sources[task]
        given = getattr(options, task)
        name, _, revision = given.partition("@")
        _, label = find_columns(train, None, getattr(options, f"{task}_label_column"), labels_needed=False)
        return DatasetRecord(
            name=Path(given).name if Path(given).expanduser().exists() else name,
            revision=revision or None,
            config=getattr(options, f"{task}_config"),
            split=getattr(options, f"{task}_split") or str(train.split or "train"),
            eval_split=eval_split,
            fingerprint=train._fingerprint,
            n_train=len(train),
            n_eval=len(evaluation),
            classes=list(train.features[label].names)
            if label and isinstance(train.features[label], ClassLabel)
            else None,
        )

    facts = training_facts(trainer)
    facts["training"] |= {"fit_steps": options.fit_steps, "seconds": round(seconds, 1)}
    return ImmunizationRecord(
        base_model=loaded.name,
        base_model_revision=loaded.revision,
        base_model_kind=loaded.kind,
        library=loaded.library,
        architecture=loaded.architecture,
        primary=described("primary"),
        harmful=described("harmful"),
        benign=described("benign") if "benign" in sources else None,
        command=options.command_line,
        license=loaded.license,
        results=results,
        **facts,
    )
