"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["whole_file"]


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Another path in the same folder to write to, which takes the place of ``path`` once all is written.

    What fails half-way leaves neither it nor a change of ``path``; a kill leaves it, and the next one writes over it.

    Raises:
        OSError: the folder cannot be made, or the file not put into its place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".unfinished-{path.name}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
