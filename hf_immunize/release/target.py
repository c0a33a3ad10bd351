"""The folder that a run writes: made and locked before any work, and swapped for the finished one as a whole."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import filelock

from hf_immunize.errors import OutputError, OutputExistsError
from hf_immunize.release.files import generated_files

__all__ = ["check_can_be_made", "check_target", "claimed", "move_into_place", "unfinished_beside"]

UNFINISHED = ".unfinished"


def check_target(folder: str | os.PathLike[str], overwrite: bool) -> Path:
    """The output folder, refused where it holds something.

    Raises:
        FileExistsError: a file, a mount point, or a folder that is not empty while ``overwrite`` is false.
    """
    folder = Path(folder).expanduser()
    # Of a link, what it points to is swapped, and the link stays.
    folder = folder.resolve() if folder.is_symlink() else folder
    if folder.exists() and not folder.is_dir():
        raise OutputExistsError(f"{folder} is a file. Choose a folder.")
    if folder.is_dir() and not overwrite and any(folder.iterdir()):
        raise OutputExistsError(
            f"The output folder {folder} is not empty. Choose another one (--output_dir), or pass overwrite=True "
            "(--overwrite) to replace what an earlier run wrote there."
        )
    if folder.exists() and os.path.ismount(folder):
        raise OutputExistsError(f"{folder} is a mount point, which cannot be swapped whole. Choose a folder inside it.")
    return folder


def check_can_be_made(folder: str | os.PathLike[str]) -> None:
    """Whether files can be written into a folder that is there or not yet; worth calling before any work.

    Raises:
        FileExistsError: it, or what it would stand in, is a file.
        OSError: its place is somebody else's.
    """
    path = Path(folder).expanduser().absolute()
    there = next(one for one in (path, *path.parents) if one.exists())
    if not there.is_dir():
        raise OutputExistsError(f"{there} is a file. Name a folder.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(f"{there} cannot be written (no right to). Choose another folder.")


@contextlib.contextmanager
def claimed(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Makes an output folder and keeps other runs out of it; a folder made here that stays empty is removed again.

    What a run that was killed left beside the folder is cleared: a half-made release goes, and an old release that
    was put aside for a new one that never came is put back.

    Raises:
        FileExistsError: another run writes it, or it cannot be made or written.
    """
    folder = Path(folder).expanduser().absolute()
    folder = folder.resolve() if folder.is_symlink() else folder
    if not folder.name:
        raise OutputExistsError(f"{folder} is the root of the disk. Choose a folder inside it.")
    path = folder.with_name(f".{folder.name}.lock")
    # One lock a path in a process, so that a verb may hold it around a save that takes it too.
    lock = filelock.FileLock(path, is_singleton=True)
    made = False
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        if lock.lock_counter == 1:
            _clear_what_was_left(folder)
            made = not folder.exists()
            folder.mkdir(exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
    except filelock.Timeout:
        raise OutputExistsError(f"Another run is writing {folder}. Wait for it, or choose another folder.") from None
    except OSError as error:
        _release(lock, folder if made else None)
        raise OutputExistsError(f"{folder} cannot be written ({error.strerror}). Choose another folder.") from error
    try:
        yield folder
    finally:
        _release(lock, folder if made else None)


def _release(lock: filelock.BaseFileLock, made: Path | None) -> None:
    if lock.lock_counter == 1:
        if made is not None:
            with contextlib.suppress(OSError):
                made.rmdir()
        Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def unfinished_beside(folder: Path) -> Path:
    """A new temporary folder on the same disk, which the next claim clears should this process be killed."""
    return Path(tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=UNFINISHED, dir=folder.parent))


def move_into_place(unfinished: Path, folder: Path) -> None:
    """Puts ``unfinished`` where ``folder`` is, in one step; what no save ever writes is taken along.

    Raises:
        FileExistsError: a file of the user's stands where the release has a folder, or the other way round.
    """
    if folder.exists():
        _take_along(folder, unfinished)
        shutil.copymode(folder, unfinished)
    else:
        unfinished.chmod(_allowed(0o777))
    for path in unfinished.rglob("*.safetensors"):
        # Their writer makes files that nobody else may read.
        path.chmod(_allowed(0o666))
    aside = _aside(folder)
    # Between these two renames nothing but a kill comes, and the next claim mends what that leaves.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        if folder.exists():
            os.rename(folder, aside)
        try:
            os.rename(unfinished, folder)
        except OSError:
            if aside.exists():
                os.rename(aside, folder)
            raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    shutil.rmtree(aside, ignore_errors=True)


def _allowed(mode: int) -> int:
    umask = os.umask(0)
    os.umask(umask)
    return mode & ~umask


def _take_along(folder: Path, unfinished: Path) -> None:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        target = unfinished / name
        is_folder = path.is_dir() and not path.is_symlink()
        if is_folder:
            clashes = target.exists() and not target.is_dir()
        else:
            if generated_files([name]):
                continue
            clashes = target.exists()
        if clashes:
            raise OutputExistsError(f"{path} stands where the release has something of its own. Move it elsewhere.")
        if not is_folder:
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(path, target)
        elif not any(path.iterdir()):
            target.mkdir(parents=True, exist_ok=True)


def _link(path: Path, target: Path) -> None:
    """The same file under a second name; a copy on disks that know no second names."""
    try:
        os.link(path, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(path, target, follow_symlinks=False)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.previous")


def _clear_what_was_left(folder: Path) -> None:
    aside = _aside(folder)
    if aside.exists() and not folder.exists():
        os.rename(aside, folder)
    for path in (aside, *folder.parent.glob(f".{glob.escape(folder.name)}-????????{UNFINISHED}")):
        shutil.rmtree(path, ignore_errors=True)
