"""WebDataset shards whose pictures have several suffixes: one column of pictures in place of one a suffix."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from datasets import Features, IterableDataset
from datasets import Image as ImageFeature

from hf_immunize.data.folders import is_picture

__all__ = ["one_picture_column", "picture_fields"]


def picture_fields(shards: Iterable[Path]) -> list[str]:
    """Suffixes of the pictures in shards (``jpg``, ``input.png``), by the names of their files.

    `datasets` looks at the first rows of one shard alone, and drops the files of any other suffix without a word.
    """
    fields: dict[str, None] = {}
    for shard in shards:
        with tarfile.open(shard) as archive:
            for name in archive.getnames():
                _, dot, field = Path(name).name.partition(".")
                if dot and is_picture(name):
                    fields[field.lower()] = None
    return list(fields)


def one_picture_column(splits: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Splits whose rows have their picture in one of several columns (``jpg`` or ``png``) with all in one, ``image``.

    Each suffix has a column of its own, which is empty in the rows of other suffixes. Rows with several pictures are
    left as they are.

    Returns:
        the splits, and a sentence where columns were joined.
    """
    found, notes = {}, []
    for split, rows in splits.items():
        columns = [name for name, kind in (rows.features or {}).items() if isinstance(kind, ImageFeature)]
        if len(columns) < 2 or not _take_turns(rows, columns):
            found[split] = rows
            continue
        found[split] = _joined(rows, columns)
        notes.append(f"the pictures of {split!r} stand in the columns {', '.join(columns)}: read as one, 'image'")
    return found, tuple(notes)


def _take_turns(rows: Any, columns: list[str]) -> bool:
    """Whether each row has one of the pictures; of a stream the first rows are asked."""
    plain = _undecoded(rows, columns)
    looked_at = plain.take(32) if isinstance(rows, IterableDataset) else plain
    return all(len(_files(row, columns)) == 1 for row in looked_at)


def _joined(rows: Any, columns: list[str]) -> Any:
    features = Features({name: kind for name, kind in rows.features.items() if name not in columns})
    features["image"] = ImageFeature(decode=False)

    def join(row: dict[str, Any]) -> dict[str, Any]:
        return {"image": _files(row, columns)[0]}

    plain = rows
    for name in columns:
        plain = plain.cast_column(name, ImageFeature(decode=False))
    return plain.map(join, remove_columns=columns, features=features).cast_column("image", ImageFeature())


def _undecoded(rows: Any, columns: list[str]) -> Any:
    rows = rows.select_columns(columns)
    for name in columns:
        rows = rows.cast_column(name, ImageFeature(decode=False))
    return rows


def _files(row: Mapping[str, Any], columns: list[str]) -> list[Any]:
    return [row[name] for name in columns if row.get(name) is not None]
