"""The stages of one immunization (fit, run, control, ceilings, measuring), none of which is done twice at a resume."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn
from transformers.trainer_utils import SaveStrategy, SchedulerType

from hf_immunize.attacks.judging import Budgets
from hf_immunize.data.collate import collate_images
from hf_immunize.errors import InputError
from hf_immunize.models.activations import ActivationStore
from hf_immunize.models.copies import copied
from hf_immunize.models.forward import unwrap
from hf_immunize.models.random_weights import random_weights
from hf_immunize.release.record import RECORD_NAME, ImmunizationRecord, library_versions
from hf_immunize.training.arguments import ImmunizationArguments
from hf_immunize.training.carried import data_digest, model_digest
from hf_immunize.training.given import Pair
from hf_immunize.training.primary_only import PrimaryOnlyTrainer, primary_only_arguments
from hf_immunize.training.trainer import ImmunizationTrainer
from hf_immunize.training.what_trains import check_immunizes
from hf_immunize.training.whole_checkpoints import last_whole, wanted_checkpoint

__all__ = ["MEASURED", "check_stages", "kept_results", "measured_folder", "train_all"]

#: How the folders of results beside the checkpoints begin.
MEASURED = "measured"


def check_stages(args: ImmunizationArguments, plain: bool) -> None:
    """Refuses, before the first step of the first stage, what a later one would refuse.

    Args:
        args: of the run.
        plain: whether there are stages of plain fine-tuning, a fit or a control.

    Raises:
        InputError: a schedule that follows evaluations, which those do not make; plain fine-tuning to be pushed.
    """
    if args.push_to_hub:
        check_immunizes(args.made_objective())
    if plain and args.lr_scheduler_type == SchedulerType.REDUCE_ON_PLATEAU:
        raise InputError(
            "lr_scheduler_type='reduce_lr_on_plateau' follows evaluations, and a fit and the control make none. Take "
            "another schedule, or control=False and fit_steps=0."
        )


def train_all(
    network: nn.Module,
    data: Mapping[str, Pair],
    args: ImmunizationArguments,
    *,
    image_processor: Callable[..., Any] | None = None,
    fit: Mapping[str, Any] | None = None,
    control: bool = True,
    ceiling_steps: int | None = None,
    activations: ActivationStore | None = None,
    further_options: Mapping[str, Any] | None = None,
) -> tuple[ImmunizationTrainer, dict[str, nn.Module], dict[str, Any]]:
    """Fits where asked, immunizes, trains the control and the network of the primary task alone.

    Each of these has checkpoints of its own, so that a call that goes on (``args.resume_from_checkpoint``) does
    none of them twice.

    Args:
        network: the classifier; it is trained in place.
        data: ``primary`` and ``harmful`` → model inputs to train on and to measure on.
        args: of the immunization.
        image_processor: saved with the checkpoints.
        fit: ``steps`` and ``learning_rate`` of a plain fit of the primary task first, or None.
        control: train the same steps with λ = 0 too.
        ceiling_steps: train the network of the primary task alone for so many steps, from random weights; None for no
            ceilings.
        activations: of the frozen part that are there already.
        further_options: what decides the weights beside arguments and data.

    Returns:
        the trainer; the models ``initial`` (θ0), ``immunized`` and, where they were asked for, ``control``,
        ``primary_only`` and, with a fit, ``public``, the model as it was given; and what a record says of the training
        of ``primary_only``.
    """

    def trainer(
        one: nn.Module, of: ImmunizationArguments, harmful_too: bool, kind: type[ImmunizationTrainer] | None = None
    ) -> ImmunizationTrainer:
        made = (kind or ImmunizationTrainer)(
            one,
            of,
            train_dataset=data["primary"][0],
            harmful_dataset=data["harmful"][0] if harmful_too else None,
            eval_dataset=data["primary"][1],
            harmful_eval_dataset=data["harmful"][1] if harmful_too else None,
            processing_class=image_processor,
            activations=activations,
        )
        made.further_options = dict(further_options or {})
        return made

    kept = "no" if args.save_strategy == SaveStrategy.NO else "steps"
    saves = {"save_strategy": kept, "save_only_model": False, "save_total_limit": 2}

    def plain(name: str, **changes: Any) -> ImmunizationArguments:
        return args.as_control(output_dir=str(work / name), **saves, **changes)

    def train(run: ImmunizationTrainer) -> None:
        there = goes_on is not None and last_whole(Path(run.args.output_dir or ".")) is not None
        run.train(resume_from_checkpoint=there)

    # Training is in place, and a resume is given the model as it was.
    as_given = None if ceiling_steps is None else copied(network)
    work, goes_on = Path(args.output_dir or "."), wanted_checkpoint(args.resume_from_checkpoint) or None
    # Everything is checked with the harmful data before a fit takes its minutes.
    run = trainer(network, args, True)
    begun = isinstance(goes_on, str) or (goes_on is not None and last_whole(work) is not None)
    if fit is not None and not begun:
        rate = fit["learning_rate"]
        train(trainer(network, plain("fit", max_steps=fit["steps"], learning_rate=rate, warmup_steps=0), False))
        run = trainer(network, args, True)
    run.train(resume_from_checkpoint=goes_on if begun else False)
    trained = unwrap(run.model).eval()
    models = {"initial": run.initial_model(), "immunized": trained}
    if control:
        models["control"] = copied(models["initial"])
        train(trainer(models["control"], plain("control"), False))
        models["control"].eval()
    facts: dict[str, Any] = {}
    if as_given is not None and ceiling_steps is not None:
        models["primary_only"] = random_weights(as_given, seed=args.seed)
        own = primary_only_arguments(args, work / "primary_only", ceiling_steps, **saves)
        alone = trainer(models["primary_only"], own, False, PrimaryOnlyTrainer)
        train(alone)
        models["primary_only"].eval()
        facts = {"steps": alone.state.global_step, "learning_rate": own.learning_rate, "optimizer": "AdamW"}
        facts["seconds"] = round(alone.seconds, 1)
        if fit is not None:
            models["public"] = as_given.eval()
    return run, models, facts


def measured_folder(
    args: ImmunizationArguments,
    models: Mapping[str, nn.Module],
    data: Mapping[str, Pair],
    attackers: str | Sequence[str] | None,
    budgets: Budgets,
) -> Path | None:
    """Where the results of measuring stand for a call that goes on: a folder named by all that they depend on."""
    if args.save_strategy == SaveStrategy.NO:
        return None
    depends_on = {
        "models": {name: model_digest(one) for name, one in models.items()},
        "data": {task: [data_digest(one, collate_images) for one in pair] for task, pair in data.items()},
        "attackers": attackers,
        "budgets": asdict(budgets),
        "protocol": asdict(args.protocol),
        "versions": library_versions(),
    }
    digest = hashlib.sha256(json.dumps(depends_on, sort_keys=True, default=str).encode()).hexdigest()
    return Path(args.output_dir or ".") / f"{MEASURED}-{digest[:16]}"


def kept_results(kept: Path | None) -> dict[str, Any] | None:
    """The results in such a folder, None where there are none."""
    there = kept is not None and (kept / RECORD_NAME).is_file()
    return ImmunizationRecord.load(kept).results if there and kept is not None else None
