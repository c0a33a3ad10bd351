"""Options from a YAML file, with those of the command line over them."""

from __future__ import annotations

import argparse
import difflib
import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from hf_immunize.errors import InputError

__all__ = ["apply_config"]

#: Set by the verbs themselves, never by a file.
RESERVED = {"config", "run", "verb", "extra", "help"}


def apply_config(parser: argparse.ArgumentParser, given: Sequence[str]) -> argparse.Namespace:
    """Parses the command line over the options of its ``--config`` file.

    Keys are the options' names; ``train`` also takes every field of `ImmunizationArguments` (they end up in
    ``options.extra``). An unknown key, a value of the wrong type or an unreadable file ends the program with a message,
    as a wrong option does.
    """
    options = parser.parse_args(given)
    if not getattr(options, "config", None):
        return options
    verb = _verb_parser(parser, options.verb)
    try:
        values = _read(Path(options.config))
        known = {action.dest: action for action in verb._actions if action.dest not in RESERVED}
        further = _argument_fields() if options.verb == "train" else {}
        extra = {}
        for key, value in values.items():
            if key in known:
                verb.set_defaults(**{key: _typed(known[key], key, value)})
            elif key in further:
                extra[key] = _as_field(further[key], key, value)
            else:
                raise InputError(_unknown(key, [*known, *further], options.config))
    except ValueError as error:
        verb.error(str(error))
    options = parser.parse_args(given)
    if extra:
        options.extra = extra
    return options


def _read(path: Path) -> dict[str, Any]:
    import yaml

    if not path.is_file():
        raise InputError(f"there is no configuration file {str(path)!r}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise InputError(f"{path} must hold `name: value` lines, got {type(values).__name__}")
    return values


def _typed(action: argparse.Action, key: str, value: Any) -> Any:
    if value is None:
        return None
    if isinstance(action, (argparse._StoreTrueAction, argparse.BooleanOptionalAction)):
        if not isinstance(value, bool):
            raise InputError(f"{key} must be true or false, got {value!r}")
        return value
    convert = action.type or str
    if isinstance(value, bool):
        raise InputError(f"{key} must be a {getattr(convert, '__name__', 'value')}, got {value!r}")
    if isinstance(value, list) and convert is str:
        value = ",".join(str(part) for part in value)
    if convert is int and isinstance(value, float) and not value.is_integer():
        raise InputError(f"{key} must be a whole number, got {value!r}")
    try:
        # float("5e-5") mends what YAML reads as a word.
        return convert(value)
    except (TypeError, ValueError, argparse.ArgumentTypeError) as error:
        raise InputError(f"{key}: {error}") from error


def _unknown(key: str, known: Sequence[str], path: str) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{path} has the unknown key {key!r}{hint}"


def _argument_fields() -> dict[str, tuple[Any, ...]]:
    """The types that each field of `ImmunizationArguments` may have, by name."""
    from hf_immunize.training.arguments import ImmunizationArguments

    hints = get_type_hints(ImmunizationArguments)
    return {
        field.name: get_args(hints[field.name]) or (hints[field.name],)
        for field in fields(ImmunizationArguments)
        if field.init
    }


def _as_field(kinds: tuple[Any, ...], key: str, value: Any) -> Any:
    """Numbers that YAML reads as words become numbers where a field takes nothing else; other kinds are the field's."""
    kinds = tuple(kind for kind in kinds if kind is not type(None))
    if value is None or len(kinds) != 1 or kinds[0] not in (bool, int, float):
        return value
    if kinds[0] is bool:
        if not isinstance(value, bool):
            raise InputError(f"{key} must be true or false, got {value!r}")
        return value
    try:
        number = float("nan" if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        number = math.nan
    if math.isnan(number) or (kinds[0] is int and not number.is_integer()):
        raise InputError(f"{key} must be a {'whole number' if kinds[0] is int else 'number'}, got {value!r}")
    return kinds[0](number)


def _verb_parser(parser: argparse.ArgumentParser, verb: str) -> argparse.ArgumentParser:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices[verb]
    raise AssertionError("the parser has no verbs")
