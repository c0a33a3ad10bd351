"""Many runs in a few processes: what each one gives is kept as it comes, and one that fails takes none along."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future, as_completed
from typing import Any

from tqdm import tqdm

__all__ = ["keep_each"]


def keep_each(waiting: Mapping[Future[Any], str], label: str, keep: Callable[[str, Any], None]) -> None:
    """Calls ``keep`` with the name and the result of each run that finishes, in the order in which they do.

    Args:
        waiting: runs → their names.
        label: of the progress bar.
        keep: what is done with a result.

    Raises:
        SystemExit: once all have ended, where some failed: their names, below their tracebacks.
    """
    failed: dict[str, BaseException] = {}
    for finished in tqdm(as_completed(waiting), total=len(waiting), desc=label):
        name = waiting[finished]
        if (error := finished.exception()) is not None:
            failed[name] = error
        else:
            keep(name, finished.result())
    for error in failed.values():
        traceback.print_exception(error)
    if failed:
        raise SystemExit(f"Not there: {', '.join(failed)}. What each of them stopped at stands above.")
