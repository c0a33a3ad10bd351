"""Options from a YAML file, with those of the command line over them, and options as one command line again."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import shlex
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from hf_immunize.cli.parser import VerbParser
from hf_immunize.errors import InputError, did_you_mean

__all__ = ["command_of", "parse"]

#: Options of one call alone: what it goes on from or replaces, a token, how it prints.
OF_ONE_CALL = {"resume_from_checkpoint", "overwrite", "hub_token", "json", "disable_tqdm", "config"}
#: Never set by a file.
RESERVED = {"config", "help", "help_all"}
#: Numbers that YAML reads as words.
_POWER = re.compile(r"[-+]?\d+e[-+]?\d+", re.IGNORECASE)


def parse(parser: VerbParser, given: Sequence[str]) -> argparse.Namespace:
    """Parses the command line over the options of its ``--config`` file.

    Keys are the options' names. An unknown key, a value of the wrong type or an unreadable file ends the program with a
    message, as a wrong option does.
    """
    options = parser.parse_args(given)
    if options.config is None:
        return _checked(parser, options)
    known = {name: action for action in parser._actions for name in _names(action)}
    spelled: dict[str, str] = {}
    mappings = _mappings(parser)
    try:
        for key, value in _read(Path(options.config)).items():
            if key not in known:
                hint = did_you_mean(key, known, cutoff=0.5)
                raise InputError(f"{options.config} has the unknown key {key!r}.{hint}")
            if (other := spelled.setdefault(known[key].dest, key)) != key:
                raise InputError(f"{options.config} has {other!r} and {key!r}, which are one option. Keep one of them.")
            if isinstance(value, dict) and known[key].dest in mappings and known[key].type is str:
                value = _as_json(key, value)
            # A key without a value is one that was not given.
            if value is not None:
                parser.set_defaults(**{known[key].dest: _typed(known[key], key, value)})
    except InputError as error:
        parser.error(str(error))
    return _checked(parser, parser.parse_args(given))


def _checked(parser: VerbParser, options: argparse.Namespace) -> argparse.Namespace:
    size = getattr(options, "batch_size", None)
    if isinstance(size, int) and size < 1:
        parser.error(f"batch_size must be 1 or more, got {size}")
    return options


def command_of(parser: VerbParser, options: argparse.Namespace) -> str:
    """The command line that gives these options again: all but defaults and those of one call, wherever they were set.

    Args:
        parser: of the verb, new, so that no file has changed its defaults.
        options: what it once parsed.
    """
    words, unset = ["hf-immunize", parser.verb], vars(parser.parse_args([]))
    for action in parser._actions:
        name, value = action.option_strings[0] if action.option_strings else "", getattr(options, action.dest, None)
        if action.dest in OF_ONE_CALL or name.startswith("--no_") or value == unset.get(action.dest):
            continue
        words += [one for one in (name, *map(str, value if isinstance(value, list) else [value])) if one]
    return shlex.join(words)


def _names(action: argparse.Action) -> list[str]:
    if action.dest in RESERVED:
        return []
    spelled = [one.removeprefix("--") for one in action.option_strings if not one.startswith("--no")]
    return [action.dest, *(one for one in spelled if "-" not in one)] if spelled or not action.option_strings else []


class _EachKeyOnce(yaml.SafeLoader):
    """YAML as `safe_load` reads it, but for a key that stands twice: the last would win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"{', '.join(twice)} stands there twice")
        return super().construct_mapping(node, deep)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"there is no configuration file {str(path)!r}")
    try:
        # A byte order mark, as some editors write it, is none of the text.
        values = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_EachKeyOnce)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML in UTF-8: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise InputError(f"{path} must hold `name: value` lines, got {type(values).__name__}")
    return values


def _mappings(parser: VerbParser) -> set[str]:
    """Options that hold a mapping, which the command line takes as JSON."""
    return {
        one.name
        for kind in parser.kinds
        for one in dataclasses.fields(kind)
        if "dict" in str(typing.get_type_hints(kind)[one.name])
    }


def _as_json(key: str, value: dict[Any, Any]) -> str:
    def number(part: Any) -> Any:
        if isinstance(part, dict):
            return {name: number(one) for name, one in part.items()}
        if isinstance(part, list):
            return [number(one) for one in part]
        return float(part) if isinstance(part, str) and _POWER.fullmatch(part) else part

    try:
        return json.dumps(number(value), ensure_ascii=False)
    except TypeError as error:
        raise InputError(f"{key} must hold numbers, words, lists and mappings, got {value!r}: {error}.") from error


def _typed(action: argparse.Action, key: str, value: Any) -> Any:
    """The value as the command line would have read it."""
    if action.nargs in ("+", "*"):
        if value == [] and action.nargs == "+" and action.default != []:
            raise InputError(f"{key} is an empty list. Name something, or leave it away.")
        listed = value if isinstance(value, list) else str(value).split(",") if isinstance(value, str) else [value]
        return [_one(action, key, part.strip() if isinstance(part, str) else part) for part in listed]
    if isinstance(value, list):
        return ",".join(str(part) for part in value)
    return _one(action, key, value)


def _one(action: argparse.Action, key: str, value: Any) -> Any:
    convert = action.type if callable(action.type) else str
    is_switch = action.const is True or action.nargs == 0 or getattr(convert, "__name__", "") == "string_to_bool"
    if is_switch:
        if not isinstance(value, bool):
            raise InputError(f"{key} must be true or false, got {value!r}")
        return value
    if value is False and "no" in (action.choices or ()):
        # What YAML reads in the word.
        value = "no"
    if isinstance(value, dict) and convert is str:
        raise InputError(f"{key} must be a value, got the mapping {value!r}")
    kind = "a whole number" if convert is int else "a number" if convert is float else "a value"
    if isinstance(value, bool) or (convert is int and isinstance(value, float) and not value.is_integer()):
        word = " (YAML reads no, yes, on and off as such: put a word in quotes)" if convert is str else ""
        raise InputError(f"{key} must be {kind}, got {value!r}{word}")
    try:
        # float("5e-5") mends what YAML reads as a word.
        found = convert(value)
    except (TypeError, ValueError, argparse.ArgumentTypeError) as error:
        raise InputError(f"{key} must be {kind}, got {value!r}") from error
    if action.choices is not None and found not in action.choices:
        choices = [str(one) for one in action.choices]
        hint = did_you_mean(found, choices, cutoff=0.0)
        raise InputError(f"{key} must be one of {', '.join(choices)}, got {value!r}.{hint}")
    return found
