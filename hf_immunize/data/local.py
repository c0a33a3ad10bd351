"""Data sets on this machine: what a folder or file is, and how it is read."""

from __future__ import annotations

import errno
import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import yaml
from datasets import Dataset, DatasetDict, Features, Image, load_dataset, load_dataset_builder, load_from_disk
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
from huggingface_hub import constants

from hf_immunize.data.columns import choose_columns
from hf_immunize.data.folders import METADATA_NAMES, find_pictures, read_picture_folder, split_folders
from hf_immunize.data.parquet import check_one_order, holds_pictures, patterns, read_parquet
from hf_immunize.data.shards import one_picture_column, picture_fields
from hf_immunize.data.split_words import one_split_word, split_word
from hf_immunize.errors import InputError, UserError

__all__ = ["load_local", "reading_errors"]

#: What `datasets` takes for the name of a split.
_SPLIT_NAME = re.compile(r"\w+(\.\w+)*")
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}")
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOENT, errno.ENOTDIR)
_KINDS = {".parquet": "parquet", ".tar": "webdataset"}


def load_local(
    path: Path, config: str | None = None, *, streaming: bool = False, label_column: str | None = None
) -> tuple[Any, tuple[str, ...]]:
    """All splits of a folder or file, and what the user should know of how it was read.

    Args:
        path: a folder of pictures, of parquet files, of WebDataset shards or of ``Dataset.save_to_disk``; a copy of a
            data set of the Hub whose card names its files; one parquet file or shard.
        config: one of those that such a card names.
        streaming: read parquet files and shards as they are, without converting them in the cache first. Other folders
            are read as they are anyway.
        label_column: as the user named it: that of a metadata file, where it has one of the name.

    Raises:
        ValueError: nothing there that can be read, or a cache that cannot be written.
    """
    # Pictures below a folder are found by their whole paths.
    path = Path(os.path.abspath(path))
    if path.is_dir() and _names_configurations(path):
        with reading_errors(path, "a copy of a data set of the Hub"):
            named = load_dataset_builder(str(path), config).config.data_files or {}
            files = [Path(str(file)) for found in named.values() for file in found]
            check_one_order([file for file in files if file.suffix.lower() == ".parquet"], repr(str(path)))
            return _splits(load_dataset(str(path), config, streaming=streaming)), ()
    if config is not None:
        raise InputError(f"The configuration {config!r} was named for the local {str(path)!r}, which names none.")
    if path.is_file():
        kind = _KINDS.get(path.suffix.lower())
        if kind is None:
            raise InputError(
                f"{str(path)!r} is a file of type {path.suffix!r}; a parquet file or a folder was expected, or a "
                "WebDataset shard (.tar)."
            )
        return _from_files(path, {"train": [path]}, kind, streaming)
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        with reading_errors(path, "a folder of Dataset.save_to_disk"):
            return _splits(load_from_disk(str(path))), ()
    return _load_folder(path, streaming, label_column)


def _load_folder(path: Path, streaming: bool, label_column: str | None) -> tuple[Any, tuple[str, ...]]:
    pictures = find_pictures(path)
    tables = [file for file in _below(path, ".parquet") if file.name not in METADATA_NAMES]
    shards = _below(path, ".tar")
    if tables and (not pictures or any(map(holds_pictures, tables))):
        groups, notes = _by_split(path, tables)
        if pictures:
            notes.append(f"read the parquet files of {path.name!r}, and not the pictures beside them: {len(pictures)}")
        return _from_files(path, groups, "parquet", streaming, notes)
    if shards and not pictures:
        groups, notes = _by_split(path, shards)
        return _from_files(path, groups, "webdataset", streaming, notes)
    described = [
        file
        for suffix in (".csv", ".jsonl", ".parquet")
        for file in _below(path, suffix)
        if file.name in METADATA_NAMES
    ]
    if pictures and described:
        return _load_described(path, pictures, described, label_column)
    splits, told = read_picture_folder(path, pictures)
    if tables or shards:
        told = (*told, f"left .parquet and .tar files beside the pictures alone: {len(tables) + len(shards)}")
    beside = [file.name for suffix in (".csv", ".json", ".jsonl", ".tsv", ".xlsx") for file in _below(path, suffix)]
    if beside:
        which = f"{', '.join(beside[:3])}{', …' if len(beside) > 3 else ''}"
        told = (
            *told,
            f"did not read {which}: pictures are described by {', '.join(METADATA_NAMES)} (file_name, label)",
        )
    return splits, told


def _load_described(
    path: Path, pictures: list[Path], described: list[Path], label_column: str | None
) -> tuple[DatasetDict, tuple[str, ...]]:
    """A folder of pictures whose columns stand in a metadata file."""
    folders = split_folders(path, pictures) or {"train": path}
    above = [one for one in described if any(one.parent in folder.parents for folder in folders.values())]
    files = {split: [f"{glob.escape(str(folder.resolve()))}/**"] for split, folder in folders.items()}
    if above:
        # A file above the splits has rows of them all.
        inside = [one for found in files.values() for one in found]
        files = {"train": [*(glob.escape(str(one.resolve())) for one in above), *inside]}
    with reading_errors(path, "a folder of pictures with a metadata file"):
        loaded = _splits(load_dataset("imagefolder", data_files=files))
    first = next(iter(loaded.values()))
    if label_column not in first.features and choose_columns(first, labels="optional").label is None:
        splits, told = read_picture_folder(path, pictures)
        # One folder for all pictures is their place, and no class.
        if any(len(one.features["label"].names) > 1 for one in splits.values() if "label" in one.features):
            return splits, (*told, "its metadata name no labels: took the folders of the pictures for their classes")
    notes = _described(path, pictures, loaded)
    if not above:
        return loaded, notes
    divided, told = _divided(path, loaded["train"], folders)
    return divided, (*notes, *told)


def _divided(path: Path, rows: Dataset, folders: Mapping[str, Path]) -> tuple[DatasetDict, tuple[str, ...]]:
    """Rows of a metadata file above the splits, each in the split whose folder its picture lies in."""
    files = _picture_files(rows)
    real = {split: os.path.realpath(folder) + os.sep for split, folder in folders.items()}
    found = {
        split: rows.select([at for at, file in enumerate(files) if file and file.startswith(place)])
        for split, place in real.items()
    }
    empty = [split for split, one in found.items() if not len(one)]
    if empty:
        raise InputError(
            f"The metadata above the splits of {str(path)!r} name no picture of {' and '.join(empty)}. Give each split "
            "its rows, or a metadata file of its own in its folder."
        )
    left = len(rows) - sum(map(len, found.values()))
    return DatasetDict(found), ((f"left out {left} rows of the metadata, of pictures in no split",) if left else ())


def _picture_files(rows: Dataset) -> list[str | None]:
    """The file of each row's picture."""
    column = next(name for name, kind in rows.features.items() if isinstance(kind, Image))
    cells = rows.cast_column(column, Image(decode=False)).select_columns([column])[column][:]
    return [os.path.realpath(cell["path"]) if cell and cell.get("path") else None for cell in cells]


def _described(path: Path, pictures: list[Path], loaded: DatasetDict) -> tuple[str, ...]:
    """What the user should know of the rows of a metadata file beside the pictures that are there."""
    named: list[str] = []
    for one in loaded.values():
        named += filter(None, _picture_files(one))
    missing = [name for name in dict.fromkeys(named) if not os.path.exists(name)]
    if missing:
        told = ", ".join(Path(name).name for name in missing[:3])
        raise InputError(
            f"The metadata of {str(path)!r} name {len(missing)} pictures that are not there ({told}"
            f"{', …' if len(missing) > 3 else ''}). Mend the column file_name, or leave those rows out."
        )
    different, notes = len(set(named)), []
    if different < len({os.path.realpath(one) for one in pictures}):
        notes.append(
            f"read {different} of the {len(pictures)} pictures below {path.name!r}: those that its metadata name"
        )
    if different < len(named):
        notes.append(
            f"its metadata name {len(named) - different} pictures again: {len(named)} rows of {different} pictures"
        )
    return tuple(notes)


def _from_files(
    path: Path, groups: dict[str, list[Path]], kind: str, streaming: bool, notes: Sequence[str] = ()
) -> tuple[Any, tuple[str, ...]]:
    if kind == "parquet":
        with reading_errors(path, kind):
            splits, told = read_parquet(groups, streaming=streaming)
        return splits, (*notes, *told)
    files = patterns(groups)
    with reading_errors(path, "WebDataset shards"):
        options: dict[str, Any] = {"data_files": files, "streaming": streaming}
        fields = picture_fields(file for found in groups.values() for file in found)
        if len(fields) > 1:
            first = next(iter(load_dataset(kind, data_files=files, streaming=True).values()))
            options["features"] = Features({**{name: Image() for name in fields}, **first.features})
        splits = _splits(load_dataset(kind, **options))
        if len(fields) < 2:
            return splits, tuple(notes)
        joined, told = one_picture_column(splits)
    return joined, (*notes, *told)


def _by_split(root: Path, files: list[Path]) -> tuple[dict[str, list[Path]], list[str]]:
    """Files by the split that a folder's or their own name says; all are ``train`` where none says any."""
    found: dict[str, list[Path]] = {}
    without: list[Path] = []
    for file in files:
        split = _split_of(file.relative_to(root))
        (without if split is None else found.setdefault(split, [])).append(file)
    if without and "train" not in found:
        found["train"], without = without, []
    notes = [f"left out files of {root.name!r} whose names say no split: {len(without)}"] if without else []
    order = [split for split in ("train", "validation", "test") if split in found]
    return {split: found[split] for split in [*order, *(one for one in found if one not in order)]}, notes


def _split_of(file: Path) -> str | None:
    """By the file's own name, else that of the nearest folder which says any."""
    shard = _SHARD.fullmatch(file.stem)
    if shard and (split := split_word(shard[1]) or one_split_word(shard[1])):
        return split
    if shard and _SPLIT_NAME.fullmatch(shard[1]):
        return shard[1]
    return next((split for split in map(one_split_word, reversed((*file.parts[:-1], file.stem))) if split), None)


def _below(root: Path, suffix: str) -> list[Path]:
    return sorted(
        file
        for file in root.rglob("*")
        if file.suffix.lower() == suffix
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(root).parts)
    )


def _names_configurations(path: Path) -> bool:
    card = path / "README.md"
    if not card.is_file():
        return False
    head = re.match(r"---\r?\n(.*?)\r?\n---", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    try:
        values = yaml.safe_load(head[1]) if head else None
    except yaml.YAMLError:
        return False
    return isinstance(values, dict) and "configs" in values


def _splits(loaded: Any) -> Any:
    return loaded if isinstance(loaded, Mapping) else DatasetDict({str(loaded.split or "train"): loaded})


@contextmanager
def reading_errors(path: Path | str, kind: str) -> Iterator[None]:
    """Turns what `datasets` raises while it reads ``path`` into a ``ValueError`` with the true cause."""
    try:
        yield
    except (UserError, ConnectionError, DatasetNotFoundError):
        raise
    except Exception as error:
        cause = error
        while isinstance(cause, DatasetGenerationError) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, OSError) and cause.errno in _NOT_WRITABLE and _is_of_the_cache(cause.filename):
            raise InputError(
                f"The cache of `datasets` cannot be written ({cause}). Set HF_HOME or HF_DATASETS_CACHE to a folder "
                "that can be."
            ) from error
        # What `datasets` raises for a split without rows, the first from save_to_disk, the second from parquet.
        if isinstance(cause, IndexError) or "corresponds to no data" in str(cause):
            raise InputError(f"{str(path)!r} holds an empty split. Save it again with rows, or without it.") from error
        says = " ".join(str(cause).split())[:300] or type(cause).__name__
        if "Dataset scripts are no longer supported" in says:
            says += f" Take its converted form, if it has one: {path}@refs/convert/parquet."
        raise InputError(f"{str(path)!r} could not be read as {kind}: {says}") from error


def _is_of_the_cache(file: object) -> bool:
    """Whether an error about a file is one about the caches: about a place in or above them, or about no place."""
    if file is None:
        return True
    place = Path(os.path.abspath(str(file)))
    caches = (Path(datasets.config.HF_DATASETS_CACHE), Path(constants.HF_HUB_CACHE))
    return any(cache.is_relative_to(place) or place.is_relative_to(cache) for cache in caches)
