"""The parser of a verb: `transformers.HfArgumentParser` over the dataclasses of its options, its help short."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

from transformers import HfArgumentParser, TrainingArguments

from hf_immunize.cli.options import ReleaseOptions
from hf_immunize.training.arguments import ImmunizationArguments

__all__ = ["FURTHER", "VerbParser"]

#: Fields of `TrainingArguments` that ``--help`` shows; ``--help_all`` shows every one.
SHOWN = {
    "output_dir",
    "weight_decay",
    "lr_scheduler_type",
    "gradient_accumulation_steps",
    "max_grad_norm",
    "label_smoothing_factor",
    "bf16",
    "report_to",
    "eval_strategy",
    "eval_steps",
    "save_strategy",
    "save_steps",
    "save_total_limit",
    "push_to_hub",
    "hub_model_id",
    "hub_token",
    "hub_private_repo",
    "seed",
    "data_seed",
    "use_cpu",
    "dataloader_num_workers",
    "disable_tqdm",
}
#: Lists of a release that mean something without a value: no attackers, no models beside it.
MAY_BE_EMPTY = {"attackers", "keep"}
FURTHER = (
    "--help_all shows every field of transformers.TrainingArguments; all of them can be given, here or in --config."
)


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Defaults where there are any; one spelling of each option."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, argparse.SUPPRESS, "", []) or action.default is False:
            return action.help
        return super()._get_help_string(action)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        spelled = [one for one in action.option_strings if "-" not in one.removeprefix("--")]
        value = "" if action.nargs == 0 else " " + self._format_args(action, action.dest.rsplit("_", 1)[-1].upper())
        return ", ".join(spelled or action.option_strings) + value


class _Listed(argparse.Action):
    """A list of values; an option that is given again goes on with it, in place of dropping what stood there."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        before: Any = getattr(namespace, self.dest, None)
        # The default itself, and no list that happens to be like it.
        setattr(namespace, self.dest, values if before is self.default else [*before, *values])


class VerbParser(HfArgumentParser):
    """`transformers.HfArgumentParser` for one verb, its help short unless all of it is asked for.

    Args:
        verb: its name.
        kinds: dataclasses whose fields are the options.
        description: what the verb does.
        positional: name of an argument before the options, and its help.
        many: whether that argument takes several values.
    """

    def __init__(
        self,
        verb: str,
        kinds: Sequence[type],
        description: str,
        positional: tuple[str, str] | None = None,
        *,
        many: bool = False,
    ) -> None:
        self.verb = verb
        self.kinds: list[Any] = list(kinds)
        trains = ImmunizationArguments in self.kinds
        shown = f"{positional[0].upper()} {'… ' if many else ''}" if positional else ""
        super().__init__(
            self.kinds,
            prog=f"hf-immunize {verb}",
            usage=f"hf-immunize {verb} {shown}[options]",
            description=description,
            epilog=FURTHER if trains else None,
            formatter_class=_Help,
            allow_abbrev=False,
        )
        for action in self._actions:
            if action.nargs == "+":
                action.__class__ = _Listed
                action.nargs = "*" if action.dest in MAY_BE_EMPTY and ReleaseOptions in self.kinds else "+"
        if positional is not None:
            self.add_argument(positional[0], nargs="*" if many else "?", help=positional[1])
        if trains:
            self.add_argument("--help_all", action="help", help="show every option and exit")
            self._rare = [
                action
                for action in self._actions
                if action.dest in {one.name for one in dataclasses.fields(TrainingArguments)} - SHOWN - _own()
            ]

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        given = list(args or ())
        if "--help_all" not in given and ("--help" in given or "-h" in given):
            for action in getattr(self, "_rare", ()):
                action.help = argparse.SUPPRESS
        return super().parse_args(given, namespace)

    def of(self, kind: type, options: argparse.Namespace, **changes: Any) -> Any:
        """The options as the dataclass that they come from."""
        values = {one.name: getattr(options, one.name) for one in dataclasses.fields(kind) if one.init}
        return kind(**(values | changes))


def _own() -> set[str]:
    """Fields that `ImmunizationArguments` defines or redefines."""
    return set(ImmunizationArguments.__annotations__)
