"""The folder that a run writes: refused before any work, and put in place when it is whole."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hf_immunize.errors import OutputExistsError
from hf_immunize.release.files import generated_files
from hf_immunize.release.record import RECORD_NAME

__all__ = ["check_target", "move_into_place"]


def check_target(folder: str | os.PathLike[str], overwrite: bool) -> Path:
    """The output folder, refused where it holds something; worth calling before any work.

    Raises:
        FileExistsError: a file, or a folder that is not empty while ``overwrite`` is false.
    """
    folder = Path(folder).expanduser()
    if folder.exists() and not folder.is_dir():
        raise OutputExistsError(f"{folder} is a file. Choose a folder.")
    if folder.is_dir() and not overwrite and any(folder.iterdir()):
        raise OutputExistsError(
            f"The output folder {folder} is not empty. Choose another one (--output_dir), or pass overwrite=True "
            "(--overwrite) to replace what an earlier run wrote there."
        )
    return folder


def move_into_place(unfinished: Path, folder: Path) -> None:
    if not folder.exists():
        umask = os.umask(0)
        os.umask(umask)
        unfinished.chmod(0o777 & ~umask)
        os.rename(unfinished, folder)
        return
    # Without its record the folder counts as not whole until the last file has arrived.
    (folder / RECORD_NAME).unlink(missing_ok=True)
    new = _relative_files(unfinished)
    for name in generated_files(_relative_files(folder)):
        if name not in new:
            (folder / name).unlink()
    for name in sorted(new, key=lambda one: one == RECORD_NAME):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(unfinished / name, folder / name)


def _relative_files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
