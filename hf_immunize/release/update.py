"""A release with further results: its record, figures and card written anew, its weights as they are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hf_immunize.errors import InputError
from hf_immunize.models.loaded import LoadedModel
from hf_immunize.models.loading import load_model
from hf_immunize.release.certify import certified
from hf_immunize.release.files import BESIDE, generated_files, relative_files
from hf_immunize.release.folder import write_papers
from hf_immunize.release.merging import CARD_NAME, read_card
from hf_immunize.release.record import ImmunizationRecord
from hf_immunize.release.target import claimed, move_into_place, unfinished_beside

__all__ = ["check_beside", "update_release"]


def check_beside(folder: Path, record: ImmunizationRecord, models: Mapping[str, LoadedModel]) -> None:
    """Whether models are those that a release was made beside: figures of others do not belong in its record.

    Args:
        folder: of the release.
        record: its own.
        models: ``initial``, and perhaps ``control``, ``primary_only`` and ``public``. What the release carries is
            compared by its weights, θ0 that it does not carry by its name and commit.

    Raises:
        InputError: one of them is another.
    """
    for name, given in models.items():
        if (folder / name).is_dir():
            own = load_model(folder / name).model.state_dict()
            theirs = given.model.state_dict()
            same = own.keys() == theirs.keys() and all(torch.equal(own[key], theirs[key]) for key in own)
            what = f"the weights under {name}/"
        elif name == "initial":
            same = (given.name, given.revision) == (record.base_model, record.base_model_revision)
            at = f" at {record.base_model_revision}" if record.base_model_revision else ""
            what = f"{record.base_model}{at}, and it carries none under initial/"
        else:
            continue
        if not same:
            option = "base" if name == "initial" else name
            raise InputError(
                f"--{option} is another model than the one that the release was measured beside ({what}), so that its "
                "card cannot hold both. Name that one, or leave --update_release away and use --output_dir."
            )


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
