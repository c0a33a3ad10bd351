"""What a verb that trains refuses before it begins, because it would do nothing, or could not be done at the end."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_immunize.attacks.attacker import choose_attackers
from hf_immunize.cli.printing import say
from hf_immunize.errors import InputError

__all__ = ["check_has_a_name", "check_keep", "check_pushing", "check_unused", "kept_models"]

#: Options of a push that a verb makes of the release alone, and the only value that says so.
_OF_CHECKPOINTS = {"hub_strategy": "every_save", "hub_always_push": False}
_OF_A_PUSH = ("hub_model_id", "hub_revision", "hub_private_repo")


def check_has_a_name(folder: Path) -> None:
    """Refuses an output folder beside which nothing can stand: checkpoints and half-made releases do.

    Raises:
        InputError: it is ``.``, ``..`` or the root.
    """
    if folder.name in ("", ".."):
        raise InputError(
            f"--output_dir {folder} has no name, and checkpoints go beside the release, to NAME-checkpoints. Name a "
            "folder that can be made or replaced as a whole."
        )


def check_pushing(options: argparse.Namespace) -> None:
    """Refuses pushes of checkpoints, and says which options do nothing because nothing is pushed.

    Raises:
        InputError: with the option.
    """
    for name, served in _OF_CHECKPOINTS.items():
        value = getattr(options, name)
        if str(getattr(value, "value", value)) != str(served):
            raise InputError(
                f"--{name} is about pushes of checkpoints, and none is pushed: the release goes up once, when it is "
                f"measured. Leave --{name} away."
            )
    idle = [f"--{name}" for name in _OF_A_PUSH if getattr(options, name) is not None]
    if idle and not options.push_to_hub:
        say([f"{' and '.join(idle)} without --push_to_hub: nothing is pushed."])


def check_unused(options: argparse.Namespace, defaults: Mapping[str, Any], unused: Mapping[str, str]) -> None:
    """Refuses options that a verb takes with all of a training's, and that it does not read.

    Args:
        options: what was parsed.
        defaults: values of options that nobody gave.
        unused: option → what to do instead, a sentence.

    Raises:
        InputError: the first that was given.
    """
    for name, instead in unused.items():
        if getattr(options, name) != defaults[name]:
            raise InputError(f"--{name} is not served here. {instead}")


def kept_models(options: argparse.Namespace, *, control: bool, fit: bool, labelled: bool = True) -> list[str]:
    """Models that a run with these options will have beside the released one.

    Args:
        options: of :class:`hf_immunize.cli.options.ReleaseOptions`.
        control: whether the control is trained.
        fit: whether θ0 is fitted first.
        labelled: whether the harmful data have labels; without any there are no attackers, and no ceilings.
    """
    attackers = choose_attackers(options.attackers) if options.attackers else []
    fine_tuned = any(one.kind == "fine-tuning" for one in attackers)
    ceilings = labelled and (fine_tuned if options.ceilings is None else options.ceilings)
    return ["initial", *(["control"] * control), *(["primary_only", *(["public"] * fit)] if ceilings else [])]


def check_keep(keep: Sequence[str] | None, there: Sequence[str]) -> None:
    """Refuses to keep a model that a run will not have.

    Raises:
        InputError: with what makes it.
    """
    made_by = {
        "control": "It is trained unless --no_control is given.",
        "primary_only": "It is one of the ceilings: --ceilings, with attackers and labelled harmful data.",
        "public": "It is the model before the fit, attacked as a ceiling: --fit_steps and --ceilings, with attackers "
        "and labelled harmful data.",
    }
    for name in keep or ():
        if name not in there:
            raise InputError(f"There will be no {name!r} to keep: this run has {', '.join(there)}. {made_by[name]}")
