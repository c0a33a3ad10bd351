"""A gallery of releases: one static page with what each claims and what was measured of it, for any browser."""

from __future__ import annotations

import base64
import hashlib
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from huggingface_hub import constants

from hf_immunize.data.whole_files import whole_file
from hf_immunize.errors import InputError, OutputExistsError, UserError
from hf_immunize.hub import split_subfolder
from hf_immunize.release.figures import ATTACKS_NAME, FIGURES_FOLDER, SPECTRA_NAME, TRIALS_NAME
from hf_immunize.release.released import Released, find_release
from hf_immunize.release.standing import (
    Measured,
    Standing,
    ratio_text,
    read_verification,
    standing,
    verification_of,
)
from hf_immunize.release.summary import percent
from hf_immunize.release.target import check_can_be_made

__all__ = ["Entry", "Figure", "check_page", "gallery", "gallery_entry", "save_gallery"]

TEMPLATES = Path(__file__).parent / "templates"
#: Figures of a release: file → what it shows, for those who do not see it.
FIGURES = {
    SPECTRA_NAME: "Eigenvalues of the harmful and the primary feature Hessian under θ0 and the immunized model",
    ATTACKS_NAME: "Harmful accuracy over the steps of the strongest attacker, a line a model",
    TRIALS_NAME: "The best harmful accuracy so far against the number of settings tried, a line a model",
}
#: Bytes of a picture, and pixels of its sides: what a release draws has a tenth of that.
LARGEST_FIGURE, WIDEST_FIGURE = 2**21, 4000
#: Characters of a name that are shown.
LONGEST_NAME = 160
_PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"


@dataclass(frozen=True)
class Figure:
    """A picture within the page: its data as a URL, the size in pixels, and what it shows."""

    url: str
    width: int
    height: int
    alt: str


@dataclass(frozen=True)
class Entry:
    """One release of a gallery.

    Attributes:
        name: Hub id or folder's name.
        revision: its commit on the Hub.
        link: where it can be had; empty for a folder.
        facts: what is told of it: name → text.
        standing: its figures.
        measured: of its verification; None where there is none.
        figures: that it carries.
        notes: what was left out, in sentences.
    """

    name: str
    revision: str | None
    link: str
    facts: dict[str, str]
    standing: Standing
    measured: Measured | None
    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()


def gallery_entry(release: Released, verified: Sequence[Mapping[str, Any]] = ()) -> Entry:
    """What a gallery shows of a release.

    Args:
        release: from :func:`hf_immunize.release.released.find_release`.
        verified: the contents of ``verification.json`` files; those of other releases are passed over.

    Raises:
        InputError: its verification is of another record, or none.
    """
    record, folder = release.record, release.folder if release.revision is None else None
    facts = {
        "Primary task": record.title("primary"),
        "Harmful task": record.title("harmful"),
        "Starting point θ0": record.base_model,
        "Architecture": record.architecture or "not recorded",
        "Licence": record.license or "not recorded",
    }
    figures, notes = _figures(release.folder)
    repo_id, subfolder = split_subfolder(release.name)
    at = quote(f"{repo_id}/tree/{release.revision}/{subfolder}".rstrip("/"))
    return Entry(
        _shortened(release.name),
        release.revision,
        f"{constants.ENDPOINT}/{at}" if release.revision else "",
        {key: _shortened(value) for key, value in facts.items()},
        standing(record.results),
        verification_of(release.name, release.revision, record, folder, verified),
        figures,
        notes,
    )


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_NAME else f"{line[: LONGEST_NAME - 1]}…"


def _figures(folder: Path) -> tuple[tuple[Figure, ...], tuple[str, ...]]:
    """The pictures of a release that a page can take, and why it does not take the others."""
    found, notes = [], []
    for name, alt in FIGURES.items():
        path = folder / FIGURES_FOLDER / name
        if not path.is_file():
            continue
        if path.stat().st_size > LARGEST_FIGURE:
            notes.append(f"{FIGURES_FOLDER}/{name} has more than {LARGEST_FIGURE // 2**20} MiB and is left out.")
            continue
        data = path.read_bytes()
        width, height = struct.unpack(">II", data[16:24]) if data.startswith(_PNG) and len(data) > 24 else (0, 0)
        if not (0 < width <= WIDEST_FIGURE and 0 < height <= WIDEST_FIGURE):
            notes.append(f"{FIGURES_FOLDER}/{name} is no PNG of at most {WIDEST_FIGURE} pixels a side and is left out.")
            continue
        found.append(Figure(f"data:image/png;base64,{base64.b64encode(data).decode()}", width, height, alt))
    return tuple(found), tuple(notes)


def gallery(
    repo_ids: Sequence[str | os.PathLike[str]],
    *,
    verified: Sequence[str | os.PathLike[str]] = (),
    token: str | bool | None = None,
) -> tuple[list[Entry], dict[str, str]]:
    """Collects releases; what cannot be shown is named with the reason, and does not keep the others from it.

    Args:
        repo_ids: folders of releases, or ids on the Hub (with ``@revision``).
        verified: ``verification.json`` files, or folders that hold one, of any of them.
        token: of the Hub.

    Returns:
        the entries, by what the strongest head recovers, and for each release that cannot be shown the reason.

    Raises:
        UserError: a verification that is none, or of none of these; no release that can be shown.
    """
    given = {os.fspath(path): read_verification(path) for path in verified}
    entries: list[Entry] = []
    failed: dict[str, str] = {}
    known: set[tuple[str, str | None]] = set()
    for one in dict.fromkeys(os.fspath(repo_id) for repo_id in repo_ids):
        try:
            release = find_release(one, token=token, files=[f"{FIGURES_FOLDER}/{name}" for name in FIGURES])
            entries.append(gallery_entry(release, list(given.values())))
            known.add((release.name, release.revision))
        except UserError as error:
            failed[one] = str(error)
    if not entries:
        reasons = "; ".join(f"{name}: {why}" for name, why in failed.items())
        raise InputError(f"None of these can be shown. {reasons or 'Name at least one release.'}")
    for path, found in given.items():
        if (found["name"], found["revision"]) not in known:
            at = f" at {found['revision']}" if found["revision"] else ""
            raise InputError(f"{path} is of {found['name']}{at}, which is none of the releases given. Name it too.")
    return sorted(entries, key=_by_recovery), failed


def _by_recovery(entry: Entry) -> tuple[bool, float]:
    head = entry.standing.strongest.get("probe")
    value = None if head is None else head.recovery
    return value is None, value or 0.0


def check_page(path: str | os.PathLike[str], overwrite: bool) -> Path:
    """The file of a page, refused where something stands there; worth calling before any work.

    Raises:
        FileExistsError: a folder, or a file while ``overwrite`` is false; or its folder cannot be one.
        OSError: its folder cannot be written.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise OutputExistsError(f"{path} is a folder. Name a file, such as {path / 'gallery.html'}.")
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path} exists. Name another file, or pass overwrite=True (--overwrite).")
    check_can_be_made(path.parent)
    return path


def save_gallery(
    entries: Sequence[Entry],
    path: str | os.PathLike[str],
    *,
    failed: Mapping[str, str] | None = None,
    title: str = "Immunized models",
    overwrite: bool = False,
) -> Path:
    """Writes a page, whole or not at all, and returns its path.

    Args:
        entries: from :func:`gallery`, in the order of the page.
        path: the file.
        failed: what cannot be shown, with the reason.
        title: of the page.
        overwrite: replace a file that is there.

    Raises:
        FileExistsError: something stands there.
        FileNotFoundError: its folder cannot be made.
    """
    path = check_page(path, overwrite)
    text = _page(entries, failed or {}, title)
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    return path


def _page(entries: Sequence[Entry], failed: Mapping[str, str], title: str) -> str:
    """The page: style and script within it are the only ones that its policy lets a browser run."""
    style, script = ((TEMPLATES / f"gallery.{end}").read_text(encoding="utf-8") for end in ("css", "js"))
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string((TEMPLATES / "gallery.html.jinja").read_text(encoding="utf-8")).render(
        title=title,
        entries=entries,
        failed=failed,
        style=style,
        script=script,
        policy={"style": _digest(style), "script": _digest(script)},
        ratio_text=ratio_text,
        percent=percent,
        points=lambda value: "–" if value is None else f"{100 * value:.1f}".replace("-", "−"),
    )


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
