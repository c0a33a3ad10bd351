"""Broken picture files: found, named and left out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset
from datasets import Image as ImageFeature

from hf_immunize.data.decoding import CorruptPictureError, open_picture
from hf_immunize.errors import InputError

__all__ = ["drop_corrupt"]


def drop_corrupt(data: Dataset, image_column: str) -> tuple[Dataset, list[str]]:
    """The rows whose picture can be read to its last pixel, and a line for each of the others.

    Every picture is decoded once. Files are told by their names alone: these lines may be published.

    Raises:
        ValueError: no row is left.
    """
    rows = data.with_format(None).select_columns([image_column])
    if isinstance(rows.features[image_column], ImageFeature):
        rows = rows.cast_column(image_column, ImageFeature(decode=False))
    kept, dropped = [], []
    for index in range(len(rows)):
        try:
            open_picture(rows[index][image_column])
            kept.append(index)
        except CorruptPictureError as error:
            told = _without_folders(str(error), rows[index][image_column])
            dropped.append(f"row {index}: {told.partition('. ')[0]}")
    if not kept:
        raise InputError(
            f"None of the {len(rows)} pictures can be read; the first: {dropped[0] if dropped else 'none'}"
        )
    return (data.select(kept) if dropped else data), dropped


def _without_folders(text: str, picture: Any) -> str:
    path = picture.get("path") if isinstance(picture, Mapping) else picture
    if not isinstance(path, (str, os.PathLike)):
        return text
    whole, name = os.fspath(path), Path(path).name
    return text.replace(repr(whole), repr(name)).replace(whole, name)
