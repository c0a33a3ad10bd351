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
from hf_immunize.errors import InputError
from hf_immunize.release.files import BESIDE
from hf_immunize.training.primary_only import PRIMARY_ONLY_STEPS

__all__ = [
    "CEILINGS",
    "AttackOptions",
    "EvaluateOptions",
    "FinetuneOptions",
    "GalleryOptions",
    "PushOptions",
    "TrainOptions",
    "VerifyOptions",
    "budgets_of",
    "named_rows",
    "task_options",
]


def _said(help_text: str, **more: Any) -> dict[str, Any]:
    return {"help": help_text} | more


def _option(default: Any, help_text: str, **more: Any) -> Any:
    return field(default=default, metadata=_said(help_text, **more))


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
    named = [(f"{task}{part}", str | None, _option(None, text)) for part, text in options.items()]
    made = make_dataclass(f"{task.title()}Options", named)
    made._argument_group_name = f"the {task} task"  # type: ignore[attr-defined]
    return made


def named_rows(options: argparse.Namespace, task: str) -> dict[str, Any]:
    """What the options of :func:`task_options` say of a task, as :func:`hf_immunize.load_task` takes it."""
    parts = ("split", "eval_split", "config", "image_column", "label_column")
    found = {part: getattr(options, f"{task}_{part}") for part in parts if hasattr(options, f"{task}_{part}")}
    return found | {"skip_corrupt": options.skip_corrupt, "streaming": options.streaming}


ATTACKERS_HELP = f"Attackers, by group or by name: {', '.join(attacker_choices())}."


def _attackers(default: str) -> Any:
    return field(
        default_factory=lambda: [default], metadata=_said(ATTACKERS_HELP, choices=attacker_choices(), metavar="NAME")
    )


#: With and without a value, so that --ceilings asks for them and --ceilings false leaves them out.
CEILINGS = _said(
    "Train a network of the primary task alone too, and attack it and the weights before the fit as well: what an "
    "attacker has anyway. Where attackers fine-tune unless given; --ceilings false leaves it out.",
    nargs="?",
    const=True,
)


@dataclass
class FinetuneOptions:
    """What fine-tuning attackers may spend, in every verb that attacks."""

    _argument_group_name = "fine-tuning attackers"

    finetune_samples: list[str] | None = _option(None, "Images a class that fine-tuning gets, like 100.")
    finetune_steps: list[int] | None = _option(None, "Steps of fine-tuning, like 10 30 100 300 1000.")


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
class TrainOptions:
    """What ``train`` takes beside a training's arguments."""

    _argument_group_name = "the run"

    model: str | None = _option(None, "Hub id (with @revision), timm name (timm/…), or folder.")
    new_head: bool = _option(False, "Give the model a new head for the primary classes.")
    fit_steps: int = _option(0, "Steps of plain fitting first; θ0 is what comes out.")
    fit_learning_rate: float | None = _option(None, "Learning rate of that fit; as --learning_rate unless given.")
    control: bool = _option(True, "Train the same steps with λ = 0 too, for comparison; --no_control leaves it out.")
    attackers: list[str] = _attackers("probes")
    ceilings: bool | None = field(default=None, metadata=CEILINGS)
    ceiling_steps: int = _option(PRIMARY_ONLY_STEPS, "Steps of that network, all weights from random ones.")
    keep: list[str] | None = field(
        default=None,
        metadata=_said(
            "Models to keep beside the release, for verify and for attack --base, --control and the like; initial "
            "where θ0 is no commit on the Hub unless given.",
            choices=list(BESIDE),
        ),
    )
    max_train_samples: int | None = _option(None, "Training images of each task at most, drawn by --seed.")
    max_eval_samples: int | None = _option(None, "Images to measure on of each task at most, drawn by --seed.")
    skip_corrupt: bool = _option(False, "Leave out pictures that cannot be read, and count them.")
    streaming: bool = _option(
        False, "Read Hub data sets, parquet and shards row by row, without downloading them first."
    )
    trust_remote_code: bool = _option(False, "Run a model's own code from the Hub; only for code that you have read.")
    overwrite: bool = _option(False, "Replace an earlier run in the output folder.")
    json: bool = _option(False, "Print the result as JSON in place of a table.")
    config: str | None = _option(None, "A YAML file with options; the command line goes over it.")


@dataclass
class EvaluateOptions:
    """What ``evaluate`` takes beside its data sets."""

    _argument_group_name = "the measurement"

    base: str | None = _option(None, "The model that it started from, θ0.")
    groups: int = _option(20, "Groups of the paper's protocol.")
    group_size: int = _option(100, "Samples a group.")
    seed: int = _option(0, "Of the draw of the groups, and of the images taken.")
    max_samples: int = _option(5_000, "Images of each task at most.")
    batch_size: int = _option(64, "Images a forward pass.")
    skip_corrupt: bool = _option(False, "Leave out pictures that cannot be read, and count them.")
    streaming: bool = _option(
        False, "Read Hub data sets, parquet and shards row by row, without downloading them first."
    )
    trust_remote_code: bool = _option(False, "Run a model's own code from the Hub; only for code that you have read.")
    token: str | None = _option(None, "Of the Hub; the one that is logged in unless given.")
    json: bool = _option(False, "Print the result as JSON in place of lines.")
    config: str | None = _option(None, "A YAML file with options; the command line goes over it.")


@dataclass
class AttackOptions:
    """What ``attack`` takes beside its data sets."""

    _argument_group_name = "the attack"

    base: str | None = _option(None, "The model that it started from, θ0.")
    control: str | None = _option(None, "A model of the same training with λ = 0.")
    primary_only: str | None = _option(None, "A network of the primary task alone, which an attacker could train.")
    public: str | None = _option(None, "The public weights that θ0 descends from.")
    attackers: list[str] = _attackers("all")
    samples: list[str] | None = _option(None, "Images a class that a head is fitted on, like 10 100 all.")
    steps: list[int] | None = _option(None, "Steps of a head, like 10 30 100.")
    seeds: list[int] | None = _option(None, "Of the attackers: each is run once with every one of them, like 0 1 2.")
    seed: int = _option(0, "Of what is drawn before them, once: a held-out fifth, and the images taken.")
    scratch: bool = _option(True, "Attack random weights too, the reference of a recovery and a ceiling.")
    max_samples: int = _option(5_000, "Images of each split at most.")
    batch_size: int = _option(64, "Images a forward pass.")
    output_dir: str | None = _option(None, "attacks.json, attacks.png and trials.png go here.")
    update_release: bool = _option(False, "Write the report into the record and the card of MODEL, a release's folder.")
    overwrite: bool = _option(False, "Replace an earlier attacks.json there.")
    skip_corrupt: bool = _option(False, "Leave out pictures that cannot be read, and count them.")
    streaming: bool = _option(
        False, "Read Hub data sets, parquet and shards row by row, without downloading them first."
    )
    trust_remote_code: bool = _option(False, "Run a model's own code from the Hub; only for code that you have read.")
    token: str | None = _option(None, "Of the Hub; the one that is logged in unless given.")
    json: bool = _option(False, "Print the report as JSON in place of a table.")
    config: str | None = _option(None, "A YAML file with options; the command line goes over it.")


@dataclass
class PushOptions:
    """What ``push`` takes."""

    _argument_group_name = "the upload"

    repo_id: str | None = _option(None, "user/name; created if it does not exist.")
    private: bool | None = _option(None, "Create the repository private.")
    revision: str | None = _option(None, "Branch; main unless given.")
    commit_message: str | None = _option(None, "First line of the commit.")
    create_pr: bool = _option(False, "Open a pull request in place of a commit.")
    dry_run: bool = _option(False, "Print every file with its size and the card, and send nothing.")
    token: str | None = _option(None, "Of the Hub, with write access; the one that is logged in unless given.")
    json: bool = _option(False, "Print the commit as JSON.")
    config: str | None = _option(None, "A YAML file with options; the command line goes over it.")


@dataclass
class VerifyOptions:
    """What ``verify`` takes."""

    _argument_group_name = "the verification"

    primary: str | None = _option(None, "The primary data, where the record names none that can be fetched.")
    harmful: str | None = _option(None, "The harmful data, likewise.")
    benign: str | None = _option(None, "The benign data, likewise; for --attackers alone.")
    base: str | None = _option(None, "The model that it started from, where the release neither names nor carries it.")
    attackers: list[str] | None = field(
        default=None,
        metadata=_said(
            f"Repeat the attacks too: {', '.join(attacker_choices())}.", choices=attacker_choices(), metavar="NAME"
        ),
    )
    batch_size: int = _option(64, "Images a forward pass.")
    output_dir: str | None = _option(None, "verification.json and verification.png go here.")
    overwrite: bool = _option(False, "Replace an earlier verification.json there.")
    create_pr: bool = _option(False, "Open a pull request with what was measured, as a file in .eval_results.")
    token: str | None = _option(None, "Of the Hub; the one that is logged in unless given.")
    json: bool = _option(False, "Print the report as JSON in place of lines.")
    config: str | None = _option(None, "A YAML file with options; the command line goes over it.")


@dataclass
class GalleryOptions:
    """What ``gallery`` takes."""

    _argument_group_name = "the page"

    output: str = _option("gallery.html", "The file to write.")
    title: str = _option("Immunized models", "Of the page.")
    verified: list[str] = field(
        default_factory=list,
        metadata=_said("verification.json files of verify, or folders that hold one, of these releases."),
    )
    overwrite: bool = _option(False, "Replace a file that is there.")
    token: str | None = _option(None, "Of the Hub; the one that is logged in unless given.")
    json: bool = _option(False, "Print what was shown and what was not as JSON.")
    config: str | None = _option(None, "A YAML file with options; the command line goes over it.")
