"""What a user can mend, as one class: the command line prints these as one line, and anything else with its traceback.

Each kind is also the built-in error that Python programs expect, so that ``except ValueError`` goes on to work.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterable, Iterator
from os import PathLike

from safetensors import SafetensorError

__all__ = [
    "HubConnectionError",
    "InputError",
    "InputTypeError",
    "MissingFileError",
    "MissingPackageError",
    "OutputError",
    "OutputExistsError",
    "UserError",
    "did_you_mean",
    "writing",
]


# What torch makes of an error in a worker of a loader: its traceback, and the error itself in the last lines.
_IN_A_WORKER = re.compile(r"Caught \w+ in .*Original Traceback.*\n[\w.]+: (.*)", re.DOTALL)


class UserError(Exception):
    """A mistake that the message says how to mend: what was given, what was expected, what to do.

    Raised in a worker of a loader, it says the same, without the traceback that torch puts before it.
    """

    def __init__(self, *args: object) -> None:
        found = _IN_A_WORKER.fullmatch(str(args[0])) if args else None
        super().__init__(*((found[1].strip(), *args[1:]) if found else args))


class InputError(UserError, ValueError):
    """A value, a model or a data set that cannot be served."""


class InputTypeError(UserError, TypeError):
    """A value of a kind that cannot be served."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that is not there."""


class OutputExistsError(UserError, FileExistsError):
    """An output that would be written over something."""


class OutputError(UserError, OSError):
    """A file that cannot be written: a full disk, a limit, a folder of somebody else's."""


class MissingPackageError(UserError, ModuleNotFoundError):
    """An optional package that is not installed."""


class HubConnectionError(UserError, ConnectionError):
    """The Hub cannot be reached."""


def did_you_mean(given: object, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The known name nearest to one that is unknown, as a question behind a space; empty where none is near.

    Args:
        given: the unknown name.
        known: the names.
        cutoff: how like it must be, from 0 (the nearest, however far) to 1.
    """
    near = difflib.get_close_matches(str(given), list(known), n=1, cutoff=cutoff)
    return f" Did you mean {near[0]!r}?" if near else ""


@contextlib.contextmanager
def writing(path: str | PathLike[str], advice: str) -> Iterator[None]:
    """Says in one line what the system, safetensors or torch say of a file that cannot be written.

    Args:
        path: what is written.
        advice: what to do, a sentence.

    Raises:
        OutputError: in their place.
    """
    try:
        yield
    except UserError:
        raise
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"{path} could not be written ({getattr(error, 'strerror', None) or error}). {advice}"
        ) from error
    except RuntimeError as error:
        # What torch says where its file writer cannot go on; it does not say why.
        if "inline_container" not in str(error) and "PytorchStreamWriter" not in str(error):
            raise
        raise OutputError(f"{path} could not be written (no space, or a limit on files). {advice}") from error
