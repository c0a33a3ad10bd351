"""One run a folder: the second one is refused before it works."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from hf_immunize.errors import OutputExistsError, writing

__all__ = ["LOCK_NAME", "locked"]

LOCK_NAME = ".lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds ``folder``, made where it is not there, for this process; a process that is killed holds nothing.

    Inside another ``locked`` of the same folder and process it does nothing.

    Raises:
        OutputExistsError: another process holds it.
        OutputError: the folder cannot be made.
    """
    lock = FileLock(folder.resolve() / LOCK_NAME, is_singleton=True)
    if lock.is_locked:
        yield
        return
    with writing(folder, "Choose a folder that you may write to (output_dir)."):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise OutputExistsError(
                f"Another run writes into {folder}. Wait until it ends, or choose another folder (output_dir)."
            ) from None
    try:
        yield
    finally:
        # While it is held, so that nobody else can be waiting for the file that goes.
        with contextlib.suppress(OSError):
            (folder / LOCK_NAME).unlink()
            folder.rmdir()
        lock.release()
