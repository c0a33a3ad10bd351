"""A release with further results: its record, figures and card written anew, its weights as they are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_immunize.release.certify import certified
from hf_immunize.release.files import BESIDE, generated_files, relative_files
from hf_immunize.release.folder import write_papers
from hf_immunize.release.merging import CARD_NAME, read_card
from hf_immunize.release.target import claimed, move_into_place, unfinished_beside

__all__ = ["update_release"]


def update_release(folder: str | os.PathLike[str], results: Mapping[str, Any]) -> Path:
    """Puts results into the record of a release, and draws its figures and writes its card anew.

    The folder is swapped whole. Weights, configuration and what an author wrote stay as they are.

    Args:
        folder: of a release.
        results: parts of the record's ``results``: ``attacks``, ``rir``, ….

    Returns:
        the folder.

    Raises:
        FileNotFoundError: no such folder.
        InputError: no whole release, or one that was changed since it was saved.
    """
    folder = Path(folder).expanduser()
    record = certified(folder)
    record = replace(record, results={**record.results, **results})
    with claimed(folder) as folder:
        unfinished = unfinished_beside(folder)
        try:
            for name in generated_files(relative_files(folder)):
                if name.count("/") == 0 or name.split("/")[0] in BESIDE:
                    (unfinished / name).parent.mkdir(exist_ok=True)
                    shutil.copy2(folder / name, unfinished / name)
            write_papers(unfinished, folder.name, record, read_card(folder / CARD_NAME))
            move_into_place(unfinished, folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder
