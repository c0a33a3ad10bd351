"""The command line: ``hf-immunize VERB …``. Parse, call one function, print."""

from __future__ import annotations

import difflib
import importlib
import os
import shlex
import sys
from collections.abc import Sequence

from hf_immunize.errors import UserError

__all__ = ["VERBS", "main"]

#: Verb → what it does, in a line; each is a module of its own, which has `parser` and `run`.
VERBS = {
    "quickstart": "the whole job on real weights and images, no network",
    "train": "immunize a model on a primary and a harmful data set",
    "evaluate": "RIR of a model against the model that it started from",
    "attack": "many attackers on a model, and the worst case",
    "push": "upload a released folder to the Hub in one commit",
    "verify": "measure a published model again, and say which of its claims hold",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0, 1 for a mistake of the user's, 130 for Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(_usage())
        return 0 if given else 2
    verb = given[0]
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1, cutoff=0.0)[0]
        print(f"hf-immunize: there is no verb {verb!r}; did you mean {near!r}?\n\n{_usage()}", file=sys.stderr)
        return 2
    try:
        module = importlib.import_module(f"hf_immunize.cli.{verb}")
        return module.run(given[1:], command=shlex.join(["hf-immunize", *given]))
    except KeyboardInterrupt:
        print("\nStopped. Nothing half written was left in the output folder.", file=sys.stderr)
        return 130
    except UserError as error:
        if os.environ.get("HF_IMMUNIZE_TRACEBACK"):
            raise
        print(f"hf-immunize: {error}", file=sys.stderr)
        return 1


def _usage() -> str:
    verbs = "\n".join(f"  {verb.ljust(12)}{text}" for verb, text in VERBS.items())
    return (
        "usage: hf-immunize VERB …\n\nMake a harmful fit on a released vision model slow, measure how far that holds, "
        f"and publish it.\n\n{verbs}\n\nhf-immunize VERB --help shows the options of a verb."
    )


if __name__ == "__main__":
    sys.exit(main())
