"""The command line: ``hf-immunize train | evaluate | attack | push | quickstart``. Parse, call one function, print."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from hf_immunize.cli.config import apply_config
from hf_immunize.errors import InputError, UserError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0, 1 for a mistake of the user's, 130 for Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    options = apply_config(parser, given)
    options.command_line = shlex.join(["hf-immunize", *given])
    try:
        return options.run(options)
    except KeyboardInterrupt:
        print("\nStopped. Nothing half written was left in the output folder.", file=sys.stderr)
        return 130
    except UserError as error:
        if os.environ.get("HF_IMMUNIZE_TRACEBACK"):
            raise
        print(f"hf-immunize: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hf-immunize",
        description="Make a harmful fit on a released vision model slow, measure how far that holds, and publish it.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="{train,evaluate,attack,push,quickstart}")
    _quickstart_options(verbs.add_parser("quickstart", help="the whole job on real weights and images, no network"))
    _train_options(verbs.add_parser("train", help="immunize a model on a primary and a harmful data set"))
    _evaluate_options(verbs.add_parser("evaluate", help="RIR of a model against the model that it started from"))
    _attack_options(verbs.add_parser("attack", help="many attackers on a model, and the worst case"))
    _push_options(verbs.add_parser("push", help="upload a released folder to the Hub in one commit"))
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE.yaml", help="options in a file; the command line goes over it")
    parser.add_argument("--json", action="store_true", help="print the result as JSON in place of a table")


def _data_options(
    parser: argparse.ArgumentParser, task: str, what: str, split: str, eval_split: str | None = None
) -> None:
    parser.add_argument(f"--{task}", help=f"{what}: Hub id, image folder, save_to_disk folder or parquet")
    parser.add_argument(f"--{task}_config", help="configuration of a Hub data set")
    parser.add_argument(f"--{task}_split", help=split)
    if eval_split is not None:
        parser.add_argument(f"--{task}_eval_split", help=f"{eval_split}; a fifth of the other if there is none")
    parser.add_argument(f"--{task}_image_column", help="found by type and name unless given")
    parser.add_argument(f"--{task}_label_column", help="found by type and name unless given")


def _quickstart_options(parser: argparse.ArgumentParser) -> None:
    parser.description = "EfficientNet-Lite0 with its ImageNet weights, digits of MNIST as primary and harmful task."
    parser.add_argument("--output_dir", default="immunized-efficientnet-lite0", help="folder of the release")
    parser.add_argument("--primary_classes", type=_integers, default=(0, 1, 2, 3, 4), help="digits, like 0,1,2,3,4")
    parser.add_argument("--harmful_classes", type=_integers, default=(5, 6, 7, 8, 9), help="digits, like 5,6,7,8,9")
    parser.add_argument("--lambda_primary", type=float, help="weight of R_well on the primary features")
    parser.add_argument("--lambda_harmful", type=float, help="weight of R_ill on the harmful features")
    parser.add_argument("--learning_rate", type=float, help="of the immunization and the control")
    parser.add_argument("--steps", type=int, help="of the immunization and the control")
    parser.add_argument("--seed", type=int, default=0, help="of the split, the head and the order of the data")
    parser.add_argument(
        "--attackers", type=_names, default="probes", help="probes, or all: fine-tuning too, some minutes more"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier run in the output folder")
    _common(parser)
    parser.set_defaults(run=_quickstart)


def _train_options(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Immunize a classifier: train its last stage on the primary task, with regularizers that make harmful fits "
        "slow. Any other field of ImmunizationArguments or TrainingArguments can be set in --config."
    )
    parser.add_argument("--model", help="Hub id (with @revision), timm name (timm/…), or folder")
    parser.add_argument("--new_head", action="store_true", help="give the model a new head for the primary classes")
    parser.add_argument("--fit_steps", type=int, default=0, help="steps of plain fitting first; θ0 is what comes out")
    for task, what in (
        ("primary", "the task to keep"),
        ("harmful", "the task to make slow"),
        ("benign", "a task that training does not see, to measure what the immunization costs there"),
    ):
        _data_options(parser, task, what, "training split (train unless given)", "split to measure on")
    parser.add_argument("--output_dir", help="folder of the release; checkpoints go to <output_dir>-checkpoints")
    parser.add_argument("--trainable", default="last", help="last, all, or patterns of modules, comma-separated")
    parser.add_argument(
        "--objective", default="condition", help="condition, r_ill_only, opt_kappa, opt_log_kappa or imma"
    )
    parser.add_argument("--lambda_primary", type=float, default=1.0, help="weight of R_well on the primary features")
    parser.add_argument("--lambda_harmful", type=float, default=0.3, help="weight of R_ill on the harmful features")
    parser.add_argument(
        "--scale_free",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="--no-scale_free: the paper's raw form",
    )
    parser.add_argument("--max_steps", type=int, default=300, help="optimizer steps; -1 for --num_train_epochs")
    parser.add_argument("--num_train_epochs", type=float, default=3.0, help="used where --max_steps is -1")
    parser.add_argument("--learning_rate", type=float, default=5e-4, help="peak, falling linearly to zero")
    parser.add_argument("--batch_size", type=int, default=64, help="primary images a step and process")
    parser.add_argument(
        "--harmful_batch_size", type=int, help="harmful images a step and process; as primary if absent"
    )
    parser.add_argument("--gradient_accumulation_steps", type=int, default=1, help="micro-batches an optimizer step")
    parser.add_argument("--save_steps", type=int, default=500, help="steps between checkpoints")
    parser.add_argument("--eval_steps", type=int, help="steps between evaluations; none unless given")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint of this output folder")
    parser.add_argument("--control", action="store_true", help="train the same steps with λ = 0 too, for comparison")
    parser.add_argument("--bf16", action="store_true", help="mixed precision in bfloat16")
    parser.add_argument("--use_cpu", action="store_true", help="do not use an accelerator")
    parser.add_argument("--report_to", default="none", help="none, tensorboard, wandb, …")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the data and of a new head")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier run in the output folder")
    _common(parser)
    parser.set_defaults(run=_train, extra={})


def _evaluate_options(parser: argparse.ArgumentParser) -> None:
    parser.description = "RIR_θ0 in both protocols, primary accuracy, and linear attackers on harmful features."
    parser.add_argument("model", nargs="?", help="the immunized model: Hub id (with @revision) or folder")
    parser.add_argument("--base", help="the model that it started from, θ0")
    for task in ("primary", "harmful"):
        _data_options(parser, task, f"{task} images", "split (test if there is one, else train, unless given)")
    parser.add_argument("--attack", action="store_true", help="also run the probes, on half of the harmful images")
    parser.add_argument("--groups", type=int, default=20, help="groups of the paper's protocol")
    parser.add_argument("--group_size", type=int, default=100, help="samples a group")
    parser.add_argument("--max_samples", type=int, default=5_000, help="images of each task at most")
    parser.add_argument("--batch_size", type=int, default=64, help="of the forward passes")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of the groups")
    _common(parser)
    parser.set_defaults(run=_evaluate)


def _attack_options(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Fits harmful heads and fine-tunes with many attackers, on the model, on the one that it started from and on "
        "random weights, and reports the strongest at each budget, what it recovers and a verdict."
    )
    parser.add_argument("model", nargs="?", help="the immunized model: Hub id (with @revision) or folder")
    parser.add_argument("--base", help="the model that it started from, θ0")
    parser.add_argument("--control", help="a model of the same training with λ = 0")
    for task, what in (
        ("harmful", "the task to attack"),
        ("primary", "for the attacker that trains on it first"),
        ("benign", "a task that training never saw, to see what the immunization costs there"),
    ):
        _data_options(parser, task, what, "split to attack with (train unless given)", "split to judge by")
    parser.add_argument("--attackers", type=_names, default="all", help="all, probes, finetuning, or names between ;")
    parser.add_argument("--samples", type=_budgets, help="probes' images a class, like 10,100,all")
    parser.add_argument("--steps", type=_integers, help="probes' steps, like 10,30,100,300,1000")
    parser.add_argument("--finetune_samples", type=_budgets, help="fine-tuning's images a class, like 100")
    parser.add_argument("--finetune_steps", type=_integers, help="fine-tuning's steps, like 10,30,100")
    parser.add_argument("--seeds", type=_integers, help="like 0,1,2")
    parser.add_argument("--no-scratch", dest="scratch", action="store_false", help="do not attack random weights")
    parser.add_argument("--max_samples", type=int, default=5_000, help="images of each split at most")
    parser.add_argument("--batch_size", type=int, default=64, help="of the forward passes")
    parser.add_argument("--seed", type=int, default=0, help="of a held-out fifth and of the images taken")
    parser.add_argument("--output_dir", help="attacks.json and attacks.png go here")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier attacks.json there")
    _common(parser)
    parser.set_defaults(run=_attack)


def _push_options(parser: argparse.ArgumentParser) -> None:
    parser.description = "Uploads weights, record, figures and card of a released folder to the Hub, in one commit."
    parser.add_argument("folder", nargs="?", help="the folder that train or quickstart wrote")
    parser.add_argument("--repo_id", help="user/name; created if it does not exist")
    parser.add_argument("--private", action="store_true", default=None, help="create the repository private")
    parser.add_argument("--revision", help="branch; main unless given")
    parser.add_argument("--commit_message", help="first line of the commit")
    parser.add_argument("--create_pr", action="store_true", help="open a pull request in place of a commit")
    _common(parser)
    parser.set_defaults(run=_push)


def _quickstart(options: argparse.Namespace) -> int:
    from hf_immunize.cli import quickstart

    chosen = {
        name: value
        for name in ("lambda_primary", "lambda_harmful", "learning_rate", "steps")
        if (value := getattr(options, name)) is not None
    }
    with _stdout_for_results(options):
        folder, record = quickstart.quickstart(
            options.output_dir,
            primary_classes=options.primary_classes,
            harmful_classes=options.harmful_classes,
            seed=options.seed,
            attackers=options.attackers,
            overwrite=options.overwrite,
            command=options.command_line,
            progress=not options.json,
            **chosen,
        )
    return _finish(options, folder, record)


def _train(options: argparse.Namespace) -> int:
    from hf_immunize.cli.training_run import run_training

    _required(options, "model", "primary", "harmful", "output_dir")
    with _stdout_for_results(options):
        finished = run_training(options)
    return 0 if finished is None else _finish(options, *finished)


def _evaluate(options: argparse.Namespace) -> int:
    from hf_immunize.cli.training_run import run_evaluation

    _required(options, "model", "base", "primary", "harmful")
    with _stdout_for_results(options):
        report, attacks = run_evaluation(options)
    if options.json:
        values: dict[str, Any] = {"rir": report.to_dict(), "primary_accuracy": report.primary_accuracy}
        if attacks is not None:
            values["attacks"] = attacks.to_dict()
        print(json.dumps(values, indent=2, sort_keys=True))
        return 0
    print(report)
    for name, accuracy in report.primary_accuracy.items():
        print(f"primary accuracy, {name}: {100 * accuracy:.1f} %")
    if attacks is not None:
        print(f"\nHarmful accuracy (chance {100 * attacks.chance:.0f} %)\n{attacks}")
    return 0


def _attack(options: argparse.Namespace) -> int:
    from hf_immunize.cli.attack_run import run_attack

    _required(options, "model", "base", "harmful")
    with _stdout_for_results(options):
        report, written = run_attack(options)
    if options.json:
        print(json.dumps(report.to_dict(), indent=2))
        return 0
    print(report)
    for path in written:
        print(path)
    return 0


def _push(options: argparse.Namespace) -> int:
    from hf_immunize.release.hub import push_to_hub

    _required(options, "folder", "repo_id")
    commit = push_to_hub(
        options.folder,
        options.repo_id,
        private=options.private,
        revision=options.revision,
        commit_message=options.commit_message,
        create_pr=options.create_pr,
    )
    if options.json:
        print(json.dumps({"commit": commit.oid, "url": commit.commit_url, "pr_url": commit.pr_url}))
    else:
        print(f"Pushed: {commit.pr_url or commit.commit_url}")
    return 0


def _stdout_for_results(options: argparse.Namespace) -> contextlib.AbstractContextManager[Any]:
    """With --json, what the libraries print on the way goes to the error stream, so that stdout is JSON alone."""
    return contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext()


def _finish(options: argparse.Namespace, folder: Any, record: Any) -> int:
    from hf_immunize.release.table import table

    if options.json:
        print(json.dumps({"folder": str(folder), "results": record.results, "training": record.training}, indent=2))
        return 0
    print(f"\n{table(record)}\n")
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts):
        print(path)
    print(f"\nTo publish: hf-immunize push {shlex.quote(str(folder))} --repo_id USER/NAME")
    return 0


def _required(options: argparse.Namespace, *names: str) -> None:
    missing = [name for name in names if getattr(options, name) in (None, "")]
    if missing:
        shown = ", ".join(name if name in ("model", "folder") else f"--{name}" for name in missing)
        raise InputError(f"{options.verb} needs {shown} (see `hf-immunize {options.verb} --help`).")


def _integers(text: Any) -> tuple[int, ...]:
    parts = text if isinstance(text, (list, tuple)) else str(text).split(",")
    try:
        return tuple(int(part) for part in parts)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected numbers like 0,1,2, got {text!r}") from error


def _names(text: Any) -> list[str]:
    """Names of attackers hold commas, so a semicolon stands between them."""
    return list(text) if isinstance(text, (list, tuple)) else [part.strip() for part in str(text).split(";")]


def _budgets(text: Any) -> tuple[int | None, ...]:
    parts = text if isinstance(text, (list, tuple)) else str(text).split(",")
    try:
        return tuple(None if str(part).strip() == "all" else int(part) for part in parts)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected numbers or all, like 10,100,all, got {text!r}") from error


if __name__ == "__main__":
    sys.exit(main())
