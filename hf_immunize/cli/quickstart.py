"""``hf-immunize quickstart``: the whole job on weights and images out of packages, EfficientNet-Lite0 and MNIST."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_immunize.attacks.attacker import choose_attackers
from hf_immunize.attacks.suite import CARD_BUDGETS
from hf_immunize.cli.config import command_of, parse
from hf_immunize.cli.options import CallOptions, FinetuneOptions, ReleaseOptions, budgets_of, option
from hf_immunize.cli.parser import VerbParser
from hf_immunize.cli.printing import finish, stdout_for_results
from hf_immunize.cli.refusals import check_has_a_name, check_keep, check_unused, kept_models
from hf_immunize.data.packaged import digits
from hf_immunize.errors import InputError
from hf_immunize.models.packaged import loaded_lite0
from hf_immunize.release.target import check_target, claimed
from hf_immunize.training.arguments import ImmunizationArguments
from hf_immunize.training.immunize import Immunization, immunize
from hf_immunize.training.what_trains import check_immunizes

__all__ = ["QUICKSTART", "parser", "quickstart", "run"]

FIT_STEPS, FIT_RATE = 300, 1e-3
QUICKSTART = {"seed": 0, "output_dir": "immunized-efficientnet-lite0", "save_strategy": "no"}
_NO_PUSH = "Push what it has made: hf-immunize push FOLDER --repo_id USER/NAME."
_NO_CHECKPOINTS = "It takes minutes and saves no checkpoints; hf-immunize train does, and goes on from them."
#: Options of a training that this verb does not read → what to do instead.
UNUSED = dict.fromkeys(
    ("push_to_hub", "hub_model_id", "hub_revision", "hub_private_repo", "hub_strategy", "hub_always_push"), _NO_PUSH
) | dict.fromkeys(
    ("save_strategy", "save_steps", "save_total_limit", "save_only_model", "resume_from_checkpoint"), _NO_CHECKPOINTS
)
#: λ of the objective ``condition``, below its own. Of seeds 0 and 1 these cost 1.4 points of primary accuracy each,
#: and leave ridge and L-BFGS 53 to 62 %. 0.2 and 0.06: 0.8 and 1.2 points, 56 to 60 %; 0.5 and 0.06: 0.2 and 0.8, 81 to
#: 84 %; 1 and 0.1: 0 and 1.0, 82 %; 0.2 and 0.1: 1.6 and 1.8, 34 to 45 %, but (ii) above 18.
WEIGHTS = {"lambda_primary": 0.5, "lambda_harmful": 0.1}


@dataclass
class QuickstartOptions:
    """What ``quickstart`` takes beside a training's arguments."""

    _argument_group_name = "the run"

    primary_classes: list[int] = option(lambda: [0, 1, 2, 3, 4], "Digits of the task to keep.")
    harmful_classes: list[int] = option(lambda: [5, 6, 7, 8, 9], "Digits of the task to make slow.")


def parser() -> VerbParser:
    """The options of the verb."""
    own = VerbParser(
        "quickstart",
        [QuickstartOptions, ReleaseOptions, FinetuneOptions, CallOptions, ImmunizationArguments],
        "EfficientNet-Lite0 with its ImageNet weights, digits of MNIST as primary and harmful task.",
    )
    own.set_defaults(**QUICKSTART)
    for action in own._actions:
        action.help = argparse.SUPPRESS if action.dest in UNUSED else action.help
    return own


def run(given: Sequence[str], command: str) -> int:
    """Runs the quickstart as the options say, writes the release, and prints it."""
    own = parser()
    options = parse(own, given)
    check_unused(options, vars(parser().parse_args([])), UNUSED)
    command = command_of(parser(), options)
    check_has_a_name(Path(options.output_dir))
    folder = check_target(options.output_dir, options.overwrite)
    choose_attackers(options.attackers)
    check_keep(options.keep, kept_models(options, control=True, fit=True))
    budgets = budgets_of(options, CARD_BUDGETS)
    _check_classes(options.primary_classes, options.harmful_classes)
    if options.objective == "condition":
        for name, weight in WEIGHTS.items():
            setattr(options, name, weight if getattr(options, name) is None else getattr(options, name))
    args = own.of(
        ImmunizationArguments,
        options,
        output_dir=str(folder.with_name(folder.name + "-checkpoints")),
        disable_tqdm=True if options.json else options.disable_tqdm,
    )
    check_immunizes(args.made_objective())
    with claimed(folder), stdout_for_results(options.json):
        finished = quickstart(
            args,
            options.primary_classes,
            options.harmful_classes,
            attackers=options.attackers,
            budgets=budgets,
            ceilings=options.ceilings,
            ceiling_steps=options.ceiling_steps,
            command=command,
        )
        finished.save(folder, keep=options.keep, overwrite=options.overwrite)
    return finish(folder, finished.record, options.json)


def quickstart(
    args: ImmunizationArguments,
    primary_classes: Sequence[int] = (0, 1, 2, 3, 4),
    harmful_classes: Sequence[int] = (5, 6, 7, 8, 9),
    **options: Any,
) -> Immunization:
    """Fits the primary digits (θ0), immunizes against the harmful ones, trains the control, measures and attacks all.

    Args:
        args: of the training.
        primary_classes: digits of the primary task.
        harmful_classes: digits of the harmful task.
        options: of :func:`hf_immunize.immunize`: ``attackers``, ``command``, ….

    Raises:
        InputError: classes that overlap or are no digits.
        MissingPackageError: the packages with weights and images are not installed.
    """
    _check_classes(primary_classes, harmful_classes)
    finished = immunize(
        loaded_lite0(len(primary_classes), seed=args.seed),
        digits(primary_classes, args.seed),
        digits(harmful_classes, args.seed),
        args,
        benign=digits(primary_classes, args.seed, turned=True),
        fit_steps=FIT_STEPS,
        fit_learning_rate=FIT_RATE,
        **options,
    )
    assert finished is not None
    for data in (finished.record.primary, finished.record.harmful):
        data.hub_id = "ylecun/mnist"
    return finished


def _check_classes(primary: Sequence[int], harmful: Sequence[int]) -> None:
    for name, classes in (("primary_classes", primary), ("harmful_classes", harmful)):
        if len(set(classes)) != len(classes) or len(classes) < 2 or not all(0 <= one <= 9 for one in classes):
            raise InputError(f"{name} must be two or more different digits from 0 to 9, got {list(classes)}.")
    shared = sorted(set(primary) & set(harmful))
    if shared:
        raise InputError(f"The digits {shared} are in both tasks. Immunize against classes that you do not need.")
