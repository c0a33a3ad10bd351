"""The files of a release: which are the library's own, by exact names, and which go up to the Hub."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from hf_immunize.data.preprocessing import PROCESSOR_NAME
from hf_immunize.errors import InputError
from hf_immunize.models.pooled import HEAD_NAME
from hf_immunize.models.untrusted import WEIGHTS_INDEX_NAME, WEIGHTS_NAME
from hf_immunize.release.card_metadata import EVAL_RESULTS_NAME
from hf_immunize.release.figures import ATTACKS_NAME, FIGURES_FOLDER, SPECTRA_NAME, TRIALS_NAME
from hf_immunize.release.merging import CARD_NAME
from hf_immunize.release.record import RECORD_NAME

__all__ = [
    "BESIDE",
    "checksums",
    "generated_files",
    "relative_files",
    "released_files",
    "sha256_of",
]


#: Folders of models that the claims are relative to.
BESIDE = ("initial", "control", "primary_only", "public")
_SHARD = r"model-\d{5}-of-\d{5}\.safetensors"
_MODEL = "|".join(
    [*map(re.escape, (WEIGHTS_NAME, HEAD_NAME, WEIGHTS_INDEX_NAME, "config.json", PROCESSOR_NAME)), _SHARD]
)
_DRAWN = "|".join(re.escape(f"{FIGURES_FOLDER}/{name}") for name in (SPECTRA_NAME, ATTACKS_NAME, TRIALS_NAME))
#: What a save may write, and what the next one may therefore remove: a stale shard would be loaded with new weights.
_GENERATED = re.compile(
    rf"(?:(?:{'|'.join(BESIDE)})/)?(?:{_MODEL})|{_DRAWN}|{re.escape(EVAL_RESULTS_NAME)}|{RECORD_NAME}|{CARD_NAME}"
)
#: What may go up besides: an author's licence texts and further figures.
_AUTHORS = re.compile(r"(?:LICENSE|NOTICE)(?:\.\w+)?|figures/[^/]+\.(?:png|svg)|\.eval_results/[^/]+\.yaml")


def generated_files(names: Iterable[str]) -> list[str]:
    """Those of the relative paths ``names`` that a save may have written."""
    return [name for name in names if _GENERATED.fullmatch(name)]


def relative_files(folder: Path) -> list[str]:
    """Relative paths of all files below ``folder``, sorted; links to files among them, folders behind links not."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def released_files(folder: Path) -> tuple[list[str], list[str]]:
    """Relative paths of what goes up, and of what stays.

    Raises:
        InputError: something that would go up is a link: what lies behind it is no part of the release.
    """
    files = relative_files(folder)
    names = [name for name in files if _GENERATED.fullmatch(name) or _AUTHORS.fullmatch(name)]
    within = {FIGURES_FOLDER, *BESIDE, EVAL_RESULTS_NAME.split("/")[0]}
    for name in [*sorted(within), *names]:
        if (folder / name).is_symlink():
            raise InputError(
                f"{folder / name} is a link, and what lies behind a link is not published. Put the file itself there, "
                "or remove the link."
            )
    return names, [name for name in files if name not in names and not name.startswith(".cache/")]


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 by relative path of everything that a save wrote, record and card aside."""
    own = [name for name in generated_files(relative_files(folder)) if name not in (RECORD_NAME, CARD_NAME)]
    return {name: sha256_of(folder / name) for name in own}


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
