"""The options of every verb, from dataclasses: a name, a default and a help text stand once.

`ImmunizationArguments` brings those of a training, under the names that `transformers.TrainingArguments` gives them;
the dataclasses here bring what is named on a command line alone.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, fields, make_dataclass, replace
from typing import Any

from hf_immunize.attacks.attacker import attacker_choices
from hf_immunize.attacks.judging import Budgets
from hf_immunize.attacks.suite import MOST_ATTACKED
from hf_immunize.data.streams import DRAWN
from hf_immunize.errors import InputError
from hf_immunize.metrics.evaluation import MOST_MEASURED
from hf_immunize.release.files import BESIDE
from hf_immunize.training.primary_only import PRIMARY_ONLY_STEPS

__all__ = [
    "AttackOptions",
    "CallOptions",
    "EvaluateOptions",
    "FinetuneOptions",
    "GalleryOptions",
    "HubCallOptions",
    "PushOptions",
    "ReadOptions",
    "ReleaseOptions",
    "TrainOptions",
    "VerifyOptions",
    "budgets_of",
    "most_of",
    "named_rows",
    "option",
    "task_options",
]


def option(default: Any, help_text: str, **more: Any) -> Any:
    """A field of a dataclass of options; a default that is called makes its value. ``more`` are of `argparse`."""
    made = {"default_factory": default} if callable(default) else {"default": default}
    return field(**made, metadata={"help": help_text} | more)


def task_options(task: str, what: str, *, training: bool = True) -> type:
    """A dataclass with the options of one data set: ``--primary``, ``--primary_split`` and so on.

    Args:
        task: ``primary``, ``harmful`` or ``benign``.
        what: the help text.
        training: whether the verb trains or fits on it too, so that there is a split for that and one to measure on.
    """
    options = {"": f"{what}: Hub id (with @revision), image folder, save_to_disk folder or parquet."}
    options |= {"_config": "Configuration of a Hub data set."}
    if training:
        options |= {"_split": "Split to train or to fit on; train unless given. Slices too: train[:10%%]."}
        options |= {
            "_eval_split": "Split to measure on; test, else validation, whichever has labels; else a fifth of the "
            "other unless given."
        }
    else:
        options |= {"_split": "Split to measure on; test, else validation, else train unless given."}
    options |= {f"_{column}_column": "Found by type and name unless given." for column in ("image", "label")}
    named = [(f"{task}{part}", str | None, option(None, text)) for part, text in options.items()]
    made = make_dataclass(f"{task.title()}Options", named)
    made._argument_group_name = f"the {task} task"  # type: ignore[attr-defined]
    return made


def named_rows(options: argparse.Namespace, task: str) -> dict[str, Any]:
    """What the options of :func:`task_options` say of a task, as :func:`hf_immunize.load_task` takes it."""
    parts = ("split", "eval_split", "config", "image_column", "label_column")
    found = {part: getattr(options, f"{task}_{part}") for part in parts if hasattr(options, f"{task}_{part}")}
    return found | {"skip_corrupt": options.skip_corrupt, "streaming": options.streaming}


def _attackers() -> Any:
    names = f"{', '.join(attacker_choices())}; all and finetuning take some minutes more than probes"
    return option(
        lambda: ["probes"], f"Attackers, by group or by name: {names}.", choices=attacker_choices(), metavar="NAME"
    )


@dataclass
class FinetuneOptions:
    """What fine-tuning attackers may spend, in every verb that attacks."""

    _argument_group_name = "fine-tuning attackers"

    finetune_samples: list[str] | None = option(None, "Images a class that fine-tuning gets, like 100.")
    finetune_steps: list[int] | None = option(None, "Steps of fine-tuning, like 10 30 100 300 1000.")


def most_of(options: argparse.Namespace, otherwise: int) -> int:
    """``--max_samples``; unless given 2,000 rows of streams, and ``otherwise`` of data sets.

    Raises:
        InputError: fewer than one.
    """
    if options.max_samples is None:
        return DRAWN if options.streaming else otherwise
    if options.max_samples < 1:
        raise InputError(f"max_samples must be 1 or more, got {options.max_samples}.")
    return options.max_samples


def budgets_of(options: argparse.Namespace, default: Budgets) -> Budgets:
    """The budgets of attackers that options name; those of ``default`` where they name none.

    Raises:
        InputError: budgets that are no numbers, or below 1.
    """

    def counts(words: list[str]) -> tuple[int | None, ...]:
        try:
            parts = [part for one in words for part in str(one).split(",")]
            return tuple(None if part.strip() == "all" else int(part) for part in parts)
        except ValueError:
            raise InputError(f"Expected numbers or all, like 10 100 all, got {' '.join(map(str, words))}.") from None

    named = {one.name: getattr(options, one.name, None) for one in fields(Budgets)}
    given: dict[str, Any] = {name: counts(words) for name, words in named.items() if words is not None}
    return replace(default, **given)


@dataclass
class ReadOptions:
    """How data and models are read, in every verb that names them."""

    _argument_group_name = "reading"

    skip_corrupt: bool = option(False, "Leave out pictures that cannot be read, and count them.")
    streaming: bool = option(
        False, "Read Hub data sets, parquet and shards row by row, without downloading them first."
    )
    trust_remote_code: bool = option(False, "Run a model's own code from the Hub; only for code that you have read.")


@dataclass
class CallOptions:
    """What every verb takes."""

    _argument_group_name = "the call"

    json: bool = option(False, "Print the result as JSON, and nothing else.")
    config: str | None = option(None, "A YAML file with options; the command line goes over it.")


@dataclass
class HubCallOptions(CallOptions):
    """What every verb takes that has no training's arguments, with a token among them."""

    token: str | None = option(
        None, "Of the Hub, with write access where something is pushed; the one that is logged in unless given."
    )


@dataclass
class ReleaseOptions:
    """What a verb that makes a release measures of it, and what it keeps beside it."""

    _argument_group_name = "the release"

    attackers: list[str] = _attackers()
    # With and without a value, so that --ceilings asks for them and --ceilings false leaves them out.
    ceilings: bool | None = option(
        None,
        "Train a network of the primary task alone too, and attack it and the weights before the fit as well: what an "
        "attacker has anyway. Where attackers fine-tune unless given; --ceilings false leaves it out.",
        nargs="?",
        const=True,
    )
    ceiling_steps: int = option(PRIMARY_ONLY_STEPS, "Steps of that network, all weights from random ones.")
    keep: list[str] | None = option(
        None,
        "Models to keep beside the release, for verify and for attack --base, --control and the like; initial where "
        "θ0 is no commit on the Hub unless given, none for --keep alone.",
        choices=list(BESIDE),
    )
    overwrite: bool = option(False, "Replace an earlier run in the output folder.")


@dataclass
class TrainOptions:
    """What ``train`` takes beside a training's arguments."""

    _argument_group_name = "the run"

    model: str | None = option(None, "Hub id (with @revision), timm name (timm/…), or folder.")
    new_head: bool = option(
        False, "Give the model a new head for the primary classes; one of these very classes stays."
    )
    fit_steps: int = option(0, "Steps of plain fitting first; θ0 is what comes out.")
    fit_learning_rate: float | None = option(None, "Learning rate of that fit; as --learning_rate unless given.")
    control: bool = option(True, "Train the same steps with λ = 0 too, for comparison; --no_control leaves it out.")
    max_train_samples: int | None = option(None, "Training images of each task at most, drawn by --seed.")
    max_eval_samples: int | None = option(None, "Images to measure on of each task at most, drawn by --seed.")


@dataclass
class EvaluateOptions:
    """What ``evaluate`` takes beside its data sets."""

    _argument_group_name = "the measurement"

    base: str | None = option(None, "The model that it started from, θ0.")
    groups: int = option(20, "Groups of the paper's protocol.")
    group_size: int = option(100, "Samples a group.")
    seed: int = option(0, "Of the draw of the groups, and of the images taken.")
    max_samples: int | None = option(
        None, f"Images of each task at most; {MOST_MEASURED:,} unless given, and {DRAWN:,} of a stream."
    )
    batch_size: int = option(64, "Images a forward pass.")


@dataclass
class AttackOptions:
    """What ``attack`` takes beside its data sets."""

    _argument_group_name = "the attack"

    base: str | None = option(None, "The model that it started from, θ0.")
    control: str | None = option(None, "A model of the same training with λ = 0.")
    primary_only: str | None = option(None, "A network of the primary task alone, which an attacker could train.")
    public: str | None = option(None, "The public weights that θ0 descends from.")
    attackers: list[str] = _attackers()
    samples: list[str] | None = option(None, "Images a class that a head is fitted on, like 10 100 all.")
    steps: list[int] | None = option(None, "Steps of a head, like 10 30 100.")
    seeds: list[int] | None = option(None, "Of the attackers: each is run once with every one of them, like 0 1 2.")
    seed: int = option(0, "Of what is drawn before them, once: a held-out fifth, and the images taken.")
    scratch: bool = option(True, "Attack random weights too, the reference of a recovery and a ceiling.")
    max_samples: int | None = option(
        None, f"Images of each split at most; {MOST_ATTACKED:,} unless given, and {DRAWN:,} of a stream."
    )
    batch_size: int = option(64, "Images a forward pass.")
    output_dir: str | None = option(None, "attacks.json, attacks.png and trials.png go here.")
    update_release: bool = option(False, "Write the report into the record and the card of MODEL, a release's folder.")
    overwrite: bool = option(False, "Replace an earlier attacks.json there.")


@dataclass
class PushOptions:
    """What ``push`` takes."""

    _argument_group_name = "the upload"

    repo_id: str | None = option(None, "user/name; created if it does not exist.")
    private: bool | None = option(None, "Create the repository private.")
    revision: str | None = option(None, "Branch; main unless given.")
    commit_message: str | None = option(None, "First line of the commit.")
    create_pr: bool = option(False, "Open a pull request in place of a commit.")
    dry_run: bool = option(False, "Print every file with its size and the card, and send nothing.")


@dataclass
class VerifyOptions:
    """What ``verify`` takes."""

    _argument_group_name = "the verification"

    primary: str | None = option(None, "The primary data, where the record names none that can be fetched.")
    harmful: str | None = option(None, "The harmful data, likewise.")
    benign: str | None = option(None, "The benign data, likewise; for --attackers alone.")
    base: str | None = option(None, "The model that it started from, where the release neither names nor carries it.")
    attackers: list[str] | None = option(
        None, f"Repeat the attacks too: {', '.join(attacker_choices())}.", choices=attacker_choices(), metavar="NAME"
    )
    batch_size: int = option(64, "Images a forward pass.")
    output_dir: str | None = option(None, "verification.json and verification.png go here.")
    overwrite: bool = option(False, "Replace an earlier verification.json there.")
    create_pr: bool = option(False, "Open a pull request with what was measured, as a file in .eval_results.")


@dataclass
class GalleryOptions:
    """What ``gallery`` takes."""

    _argument_group_name = "the page"

    output: str = option("gallery.html", "The file to write.")
    title: str = option("Immunized models", "Of the page.")
    verified: list[str] = option(
        list, "verification.json files of verify, or folders that hold one, of these releases."
    )
    overwrite: bool = option(False, "Replace a file that is there.")
