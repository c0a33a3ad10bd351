"""What a user can mend, as one class: the command line prints these as one line, and anything else with its traceback.

Each kind is also the built-in error that Python programs expect, so that ``except ValueError`` goes on to work.
"""

from __future__ import annotations

__all__ = [
    "HubConnectionError",
    "InputError",
    "InputTypeError",
    "MissingFileError",
    "MissingPackageError",
    "OutputExistsError",
    "UserError",
]


class UserError(Exception):
    """A mistake that the message says how to mend: what was given, what was expected, what to do."""


class InputError(UserError, ValueError):
    """A value, a model or a data set that cannot be served."""


class InputTypeError(UserError, TypeError):
    """A value of a kind that cannot be served."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that is not there."""


class OutputExistsError(UserError, FileExistsError):
    """An output that would be written over something."""


class MissingPackageError(UserError, ModuleNotFoundError):
    """An optional package that is not installed."""


class HubConnectionError(UserError, ConnectionError):
    """The Hub cannot be reached."""
