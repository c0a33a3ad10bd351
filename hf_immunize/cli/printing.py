"""What verbs print, and what they ask for before they begin."""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hf_immunize.errors import InputError
from hf_immunize.release.record import ImmunizationRecord
from hf_immunize.release.table import table

__all__ = ["as_json", "finish", "required", "say", "stdout_for_results"]


def stdout_for_results(as_json: bool) -> contextlib.AbstractContextManager[Any]:
    """With --json, what the libraries print on the way goes to the error stream, so that stdout is JSON alone."""
    return contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()


def required(verb: str, options: argparse.Namespace, *names: str) -> None:
    """Refuses to begin without an option that the verb needs.

    Raises:
        InputError: with the options that are missing.
    """
    missing = [name for name in names if getattr(options, name) in (None, "")]
    if missing:
        shown = ", ".join(name if name in ("model", "folder") and verb != "train" else f"--{name}" for name in missing)
        raise InputError(f"{verb} needs {shown} (see `hf-immunize {verb} --help`).")


def say(notes: Iterable[str]) -> None:
    """What was chosen for the user, on the error stream, a line each."""
    for note in notes:
        print(f"hf-immunize: {note}", file=sys.stderr)


def as_json(values: Any) -> str:
    """Values as JSON, with escapes where the output cannot hold their letters."""
    unicode = "utf" in (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
    return json.dumps(values, indent=2, ensure_ascii=not unicode)


def finish(folder: Path, record: ImmunizationRecord, as_json: bool) -> int:
    """Prints a release: its table and files, or as JSON."""
    if as_json:
        print(json.dumps({"folder": str(folder), "results": record.results, "training": record.training}, indent=2))
        return 0
    print(f"\n{table(record)}\n")
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts):
        print(path)
    print(f"\nTo publish: hf-immunize push {shlex.quote(str(folder))} --repo_id USER/NAME")
    return 0
