"""Folders of checkpoints: put in place when they are whole, and looked through before anything is read from them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers.utils import SAFE_WEIGHTS_NAME, logging

from hf_immunize.errors import InputError
from hf_immunize.release.files import sha256_of
from hf_immunize.training.theta_zero import THETA_ZERO_NAME

__all__ = [
    "Checkpoint",
    "clear_unfinished",
    "holds_by_current_names",
    "last_whole",
    "put_in_place",
    "unfinished",
    "wanted_checkpoint",
]

logger = logging.get_logger(__name__)

STATE_NAME = "immunization_state.json"
_SUFFIX = ".unfinished"
_NAME = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint.

    Attributes:
        folder: where it is.
        state: what it carries of the run beside the Trainer's own files.
    """

    folder: Path
    state: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Checkpoint:
        """Opens every file of a checkpoint and compares it with what was written.

        Raises:
            InputError: a file is missing, cut off or altered; it is named.
        """
        path = folder / STATE_NAME
        if not path.is_file():
            raise InputError(f"{folder} is no whole checkpoint: {STATE_NAME} is missing.")
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            sealed = state.pop("seal") == _seal(state)
            files = dict(state["files"])
        except (ValueError, KeyError, TypeError, AttributeError):
            sealed, files = False, {}
        if not sealed:
            raise InputError(f"{folder} is no whole checkpoint: {STATE_NAME} is damaged.")
        for name, (size, digest) in files.items():
            one = Path(os.path.normpath(folder / name))
            if not one.is_file():
                fault = "is missing"
            elif one.stat().st_size != size:
                fault = f"holds {one.stat().st_size:,} of {size:,} bytes"
            elif sha256_of(one) != digest:
                fault = "is not what was written"
            else:
                continue
            what = "θ0 in " if one.parent == folder.parent else ""
            raise InputError(f"{folder} is no whole checkpoint: {what}{one} {fault}.")
        best = state.get("best")
        if best not in (None, folder.name):
            # The end of the run loads it.
            cls.read(folder.parent / best)
        return cls(folder, state)


def last_whole(folder: Path) -> Checkpoint | None:
    """The last whole checkpoint of a run; what is damaged is named on the way. None where there is no checkpoint.

    Raises:
        InputError: there are checkpoints, and none of them is whole.
    """
    faults: list[str] = []
    for one in _checkpoints(folder):
        try:
            found = Checkpoint.read(one)
        except InputError as error:
            faults.append(str(error))
            continue
        for fault in faults:
            logger.warning(f"{fault} The one before is taken: {one.name}.")
        return found
    if faults:
        raise InputError(f"{' '.join(faults)} There is none to go on from. Start anew, in another folder.")
    return None


def unfinished(folder: Path) -> Path:
    """Where the files of a checkpoint are written before it is whole: a folder of its name in one that goes with it."""
    return folder.parent / f".{folder.name}{_SUFFIX}" / folder.name


def put_in_place(folder: Path, state: dict[str, Any]) -> None:
    """Seals what stands in ``unfinished(folder)`` with its state and the digests of its files, and renames it.

    θ0, which stands beside the checkpoints of a run, is sealed with each of them.
    """
    written = unfinished(folder)
    former = written.with_name("former")
    names = sorted(path.relative_to(written).as_posix() for path in written.rglob("*") if path.is_file())
    state = state | {"files": {name: [(written / name).stat().st_size, sha256_of(written / name)] for name in names}}
    theta_zero = folder.parent / THETA_ZERO_NAME
    state["files"][f"../{THETA_ZERO_NAME}"] = [theta_zero.stat().st_size, sha256_of(theta_zero)]
    text = json.dumps(state | {"seal": _seal(state)}, indent=1)
    (written / STATE_NAME).write_text(text, encoding="utf-8")
    for name in [*names, STATE_NAME, "."]:
        _to_disk(written / name)
    # The same step may be there already, damaged or from the end of an epoch.
    if folder.exists():
        os.rename(folder, former)
    os.rename(written, folder)
    _to_disk(folder.parent)


def clear_unfinished(folder: Path) -> None:
    """Removes what a run that was killed left half written; only the run that holds the folder may."""
    for one in folder.glob(f".*{_SUFFIX}"):
        shutil.rmtree(one, ignore_errors=True)


def _checkpoints(folder: Path) -> list[Path]:
    """The last one first."""
    numbered = {int(name[1]): path for path in folder.glob("checkpoint-*") if (name := _NAME.fullmatch(path.name))}
    return [numbered[step] for step in sorted(numbered, reverse=True)]


def _seal(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _to_disk(path: Path) -> None:
    """Through the caches of the system, so that a rename never comes before what it names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def wanted_checkpoint(given: str | bool | None) -> str | bool | None:
    """``"last"`` and ``"true"`` stand for true, the last checkpoint of the output folder."""
    return True if str(given).lower() in ("last", "true") else given


def holds_by_current_names(checkpoint: Path, state: Mapping[str, torch.Tensor]) -> bool:
    """Whether the weights of a checkpoint have the names and shapes of a model's, so that the Trainer has read them.

    Of weights that two modules share, one is stored.
    """
    path = checkpoint / SAFE_WEIGHTS_NAME
    if not path.is_file():
        return False
    with safe_open(path, framework="pt") as opened:
        stored = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    if any(name not in state or tuple(state[name].shape) != shape for name, shape in stored.items()):
        return False
    there = {state[name].data_ptr() for name in stored}
    return all(name in stored or one.data_ptr() in there for name, one in state.items())
