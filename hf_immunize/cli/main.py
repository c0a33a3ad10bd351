"""The command line: ``hf-immunize VERB …``. Parse, call one function, print."""

from __future__ import annotations

import importlib
import io
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Sequence

from hf_immunize.errors import UserError, did_you_mean

__all__ = ["VERBS", "main"]

#: Verb → what it does, in a line; each is a module of its own, which has `parser` and `run`.
VERBS = {
    "quickstart": "the whole job on real weights and images, no network",
    "train": "immunize a model on a primary and a harmful data set",
    "evaluate": "RIR of a model against the model that it started from",
    "attack": "many attackers on a model, and the worst case",
    "push": "upload a released folder to the Hub in one commit",
    "verify": "measure a published model again, and say which of its claims hold",
    "gallery": "one page of many releases: what each claims, and what was measured of it",
}

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0, 1 for a user's mistake, 130 for Ctrl-C, 143 for SIGTERM."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper) and "utf" not in sys.stdout.encoding.lower():
        # A figure is worth more than the letter κ before it.
        sys.stdout.reconfigure(errors="replace")
    if not given or given[0] in ("-h", "--help"):
        print(_usage())
        return 0 if given else 2
    verb = given[0]
    if verb not in VERBS:
        hint = did_you_mean(verb, VERBS, cutoff=0.0)
        print(f"hf-immunize: there is no verb {verb!r}.{hint}\n\n{_usage()}", file=sys.stderr)
        return 2
    stopped_by: list[int] = []

    def stop(number: int, _: object) -> None:
        stopped_by.append(number)
        raise KeyboardInterrupt

    # Python lets nobody but the main thread say what a signal does.
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if in_main else None
    try:
        module = importlib.import_module(f"hf_immunize.cli.{verb}")
        return module.run(given[1:], command=shlex.join(["hf-immunize", *given]))
    except KeyboardInterrupt:
        print("\nStopped. Nothing half written was left in the output folder.", file=sys.stderr)
        return 128 + (stopped_by[0] if stopped_by else signal.SIGINT)
    except UserError as error:
        if os.environ.get("HF_IMMUNIZE_TRACEBACK"):
            raise
        # What a stranger's file is called must not steer a terminal.
        print(f"hf-immunize: {_CONTROL.sub('?', str(error))}", file=sys.stderr)
        return 1
    finally:
        if in_main:
            signal.signal(signal.SIGTERM, before)


def _usage() -> str:
    verbs = "\n".join(f"  {verb.ljust(12)}{text}" for verb, text in VERBS.items())
    return (
        "usage: hf-immunize VERB …\n\nMake a harmful fit on a released vision model slow, measure how far that holds, "
        f"and publish it.\n\n{verbs}\n\nhf-immunize VERB --help shows the options of a verb."
    )


if __name__ == "__main__":
    sys.exit(main())
