"""What is looked at before a release is published: that weights, record and card are those that belong together."""

from __future__ import annotations

import re
from pathlib import Path

from hf_immunize.errors import InputError, MissingFileError
from hf_immunize.models.untrusted import read_json, read_shapes
from hf_immunize.release.files import BESIDE, checksums
from hf_immunize.release.folder import missing_parts, weights_names
from hf_immunize.release.merging import CARD_NAME, edited_inside, read_card
from hf_immunize.release.privacy import holds_token, places_in
from hf_immunize.release.record import RECORD_NAME, ImmunizationRecord, record_digest

__all__ = ["certified", "check_private"]

_AGAIN = "Save the release again: save_immunized(…) or `hf-immunize train`."


def certified(folder: Path) -> ImmunizationRecord:
    """The record of a folder that is whole and as it was saved.

    Every file that a save wrote has the SHA-256 that the record holds, the record the digest of its own figures, and
    the generated part of the card its own; weights open, and every figure is in its range. This catches what was cut
    off, mixed up or changed by hand. It proves nothing about who saved the folder: measuring again does.

    Raises:
        FileNotFoundError: no such folder.
        InputError: with what is missing, broken or changed.
    """
    if not folder.is_dir():
        raise MissingFileError(f"There is no folder {folder}. Give the folder that training wrote (--output_dir).")
    missing = missing_parts(folder)
    if missing:
        raise InputError(
            f"{folder} is no whole release: it lacks {', '.join(missing)}. Write it with save_immunized(…) or "
            "`hf-immunize train`, and push that."
        )
    record = ImmunizationRecord.load(folder)
    values = read_json(folder / RECORD_NAME)
    if values.get("digest") != record_digest(values):
        raise InputError(
            f"{folder / RECORD_NAME} was changed since it was written, and nobody measured what it says now. {_AGAIN}"
        )
    for part in (folder, *(folder / name for name in BESIDE if (folder / name).is_dir())):
        read_json(part / "config.json")
        read_shapes([part / name for name in weights_names(part)])
    _check_files(folder, record)
    card = read_card(folder / CARD_NAME)
    if edited_inside(card):
        raise InputError(
            f"The generated part of {folder / CARD_NAME} was changed by hand. Put your words above or below its marks; "
            f"to have it written anew, take the part between the marks out, or save the release again."
        )
    for image in re.findall(r"!\[[^\]]*\]\((figures/[^)\s]+)\)", card):
        if not (folder / image).is_file():
            raise InputError(f"{folder / CARD_NAME} shows {image}, which is missing. Save the release again.")
    return record


def _check_files(folder: Path, record: ImmunizationRecord) -> None:
    found = checksums(folder)
    for name, digest in found.items():
        if name not in record.files:
            raise InputError(
                f"{folder / name} is not what {RECORD_NAME} was written with: it names no such file. Remove it "
                f"where it is of an earlier run. {_AGAIN}"
            )
        if record.files[name] != digest:
            raise InputError(
                f"{folder / name} is not the file that was measured: its SHA-256 is another than {RECORD_NAME} holds. "
                f"{_AGAIN}"
            )
    gone = [name for name in record.files if name not in found and "/" not in name]
    if gone:
        raise InputError(f"{folder} lacks {', '.join(gone)}, which {RECORD_NAME} names. {_AGAIN}")


def check_private(folder: Path, names: list[str], secret: str | None) -> None:
    """Refuses to publish a token, or where something lies on this machine.

    Raises:
        InputError: with the file; never with the token.
    """
    for name in names:
        if holds_token(folder / name, secret):
            raise InputError(f"{folder / name} holds a Hub token. Remove it, revoke the token, and push again.")
        if name.endswith(".json") and name != RECORD_NAME:
            places = places_in(read_json(folder / name))
            if places:
                raise InputError(
                    f"{folder / name} tells where a file lies on this machine ({', '.join(sorted(set(places))[:3])}). "
                    f"{_AGAIN}"
                )
