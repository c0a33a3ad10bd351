"""What rows hold, as one hash that means the same on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from datasets import Dataset

from hf_immunize.data.decoding import CorruptPictureError, open_picture
from hf_immunize.data.draw import drawn_numbers
from hf_immunize.data.images import undecoded
from hf_immunize.data.names import class_names

__all__ = ["MOST_FINGERPRINTED", "file_of", "path_of", "pictures_digest", "rows_fingerprint"]

#: Rows that are read for a fingerprint; of more rows so many are drawn, by seed 0.
MOST_FINGERPRINTED = 5_000
_LOSSLESS = (b"\x89PNG", b"BM", b"GIF8")


def rows_fingerprint(rows: Dataset, image_column: str, label_column: str | None = None) -> str:
    """SHA-256 of the pictures and labels of rows, in their order, with their number.

    A file in a lossy format counts by its bytes, which no decoder can change; any other picture by its pixels, which
    compress to other bytes with another version of a library. A label counts by the name of its class where it has one.

    Args:
        rows: pictures as `datasets` keeps them; of more than 5,000 rows so many are read, drawn by seed 0.
        image_column: of the pictures.
        label_column: of the labels; None leaves them aside.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256(f"{len(rows)} rows".encode())
    if len(rows) > MOST_FINGERPRINTED:
        rows = rows.select(drawn_numbers(len(rows), MOST_FINGERPRINTED))
    for content in _contents(rows, image_column):
        digest.update(hashlib.sha256(content).digest())
    if label_column is not None:
        names = class_names(rows, label_column)
        for label in rows.with_format(None)[label_column]:
            named = names[label] if names and isinstance(label, int) and 0 <= label < len(names) else label
            digest.update(f"{named}\n".encode())
    return digest.hexdigest()[:16]


def pictures_digest(rows: Dataset, image_column: str) -> str:
    """SHA-256 of every picture, in the order of the rows: of the bytes of its file, which nothing decodes."""
    digest = hashlib.sha256()
    for content in _contents(rows, image_column, as_files=True):
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _contents(rows: Dataset, column: str, as_files: bool = False) -> Iterator[bytes]:
    for picture in undecoded(rows.with_format(None), column)[column]:
        content = file_of(picture)
        if content is not None and (as_files or not content.startswith(_LOSSLESS)):
            yield content
            continue
        try:
            image = open_picture(picture if content is None else content)
        except CorruptPictureError:
            yield content or b""
            continue
        if image.mode == "P":
            image = image.convert("RGBA")
        yield f"{image.mode} {image.size}".encode() + image.tobytes()


def file_of(picture: object) -> bytes | None:
    """The bytes of the file that a picture lies in, none of a file that is not there; None where it lies in none."""
    path = path_of(picture)
    if path is not None:
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError:
            return b""
    content = picture.get("bytes") if isinstance(picture, dict) else picture
    return content if isinstance(content, bytes) else None


def path_of(picture: object) -> str | None:
    """Where the file of a picture lies on disk; None of one that is held, or lies elsewhere."""
    if isinstance(picture, dict):
        picture = picture.get("path") if picture.get("bytes") is None else None
    return picture if isinstance(picture, str) and "://" not in picture else None
