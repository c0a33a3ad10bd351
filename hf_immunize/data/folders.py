"""A folder of pictures → splits and classes, with every picture below it accounted for.

`datasets` reads such a folder too, but guesses splits from words in any file's name and leaves out what fits none.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Features, Image

from hf_immunize.data.names import loosely
from hf_immunize.data.split_words import split_word
from hf_immunize.errors import InputError

__all__ = ["METADATA_NAMES", "find_pictures", "is_picture", "read_picture_folder", "split_folders"]

#: Files that describe the pictures beside them.
METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")

_SUFFIXES = frozenset(
    f".{kind}"
    for kind in (
        *("avif", "bmp", "dib", "gif", "j2k", "jfif", "jp2", "jpe", "jpeg", "jpg"),
        *("pbm", "pgm", "png", "pnm", "ppm", "tga", "tif", "tiff", "webp"),
    )
)
#: What lies beside pictures without being one that somebody may miss.
_PAPERS = frozenset(
    f".{kind}"
    for kind in (
        *("txt", "md", "csv", "tsv", "json", "jsonl", "xml", "yaml", "yml", "html", "pdf", "xlsx"),
        *("parquet", "tar", "db", "ini", "py", "log"),
    )
)
_NO_LABEL = -1
#: Folders that systems make among a user's own: archives of macOS, thumbnails and bins of network drives, and the like.
_OF_SYSTEMS = frozenset(
    ("__MACOSX", "@eaDir", "@tmp", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found")
)


def is_picture(name: str | Path) -> bool:
    """Whether a file's suffix is that of a picture."""
    return Path(name).suffix.lower() in _SUFFIXES


def find_pictures(folder: Path) -> list[Path]:
    """Picture files below a folder, in order; hidden files and folders are no part of it.

    Raises:
        ValueError: a folder that may not be read.
    """
    return sorted(path for path in _files(folder) if is_picture(path))


def split_folders(root: Path, pictures: list[Path]) -> dict[str, Path]:
    """Folders that are splits of a data set, by split: folders called ``train``, ``val``, ``test`` and the like.

    They are splits where no class stands beside them. Where other folders do, two of them at least, with folders of
    classes inside, are taken for splits; else ``train`` is the name of a class. Where no split stands on top, one
    folder there may hold them all.

    Raises:
        InputError: several folders that hold splits, or folders that may be splits as well as classes.
    """
    groups: dict[str, list[Path]] = defaultdict(list)
    loose, divided = False, set()
    for path in pictures:
        top, *inner = path.relative_to(root).parts
        if not inner:
            loose = True
            continue
        groups[top].append(path)
        if len(inner) > 1:
            divided.add(top)
    folders = sorted(groups)
    named = [name for name in folders if split_word(name)]
    alone = len(named) == len(folders) and (not loose or len(named) > 1)
    several = len({split_word(name) for name in named}) > 1
    if named and (alone or (len(named) > 1 and divided.issuperset(named)) or (several and divided & {*named})):
        often = Counter(split_word(name) for name in named)
        return {(split_word(name) if often[split_word(name)] == 1 else name) or name: root / name for name in named}
    if several:
        others = [name for name in folders if name not in named]
        raise InputError(
            f"{str(root)!r} has folders called {_few(named)} beside {_few(others)}: splits, or classes. Move the "
            "others away if they are splits, and rename them if they are classes."
        )
    if len(folders) == 1 and not loose and not named:
        return split_folders(root / folders[0], pictures)
    if named:
        return {}
    return _splits_below(root, {name: groups[name] for name in folders if name in divided}, len(folders))


def _splits_below(root: Path, groups: dict[str, list[Path]], n_folders: int) -> dict[str, Path]:
    """The splits that one of the folders holds, beside loose pictures and folders without any."""
    found = {name: split_folders(root / name, below) for name, below in groups.items()}
    holders = {name: splits for name, splits in found.items() if len({*map(split_word, splits)}) > 1}
    if not holders:
        return {}
    first, places = next((name, set(splits.values())) for name, splits in holders.items())
    flat = all(one.parent in places or places.isdisjoint(one.parents) for one in groups[first])
    # Without classes in them, splits of one class look the same.
    if len(holders) > 1 or (flat and n_folders > 1):
        told = [str(place.relative_to(root)) for splits in holders.values() for place in splits.values()]
        raise InputError(
            f"The splits of {str(root)!r} lie below its folders ({_few(told)}). Put the splits on top (train/cat, "
            f"train/dog, test/cat, test/dog), or give one of the folders alone: {str(root / first)!r}."
        )
    return holders[first]


def read_picture_folder(root: Path, pictures: list[Path]) -> tuple[DatasetDict, tuple[str, ...]]:
    """The pictures below a folder by split, labelled by the folder that each lies in; and what was left out.

    Columns are ``image`` and, where there are folders of classes, ``label``. A split without folders of classes, or
    with quite other ones than ``train``, has the label −1 throughout.

    Raises:
        ValueError: no picture.
    """
    if not pictures:
        raise InputError(_nothing_found(root))
    folders = split_folders(root, pictures)
    notes: list[str] = []
    if folders:
        groups = {split: [one for one in pictures if folder in one.parents] for split, folder in folders.items()}
        _note_left_out(notes, len(pictures) - sum(map(len, groups.values())), root, "in no split")
    else:
        groups, folders = {"train": pictures}, {"train": root}
    places = {path.parent for path in pictures}
    others = [path for path in _files(root) if path.parent in places and not is_picture(path)]
    others = [path for path in others if path.suffix.lower() not in _PAPERS]
    if others:
        notes.append(f"left out files that are no pictures by their suffix: {_kinds(others)}")
    classes: dict[str, dict[Path, str]] = {}
    for split, files in groups.items():
        classes[split] = _classes(files, folders[split], notes)
        if classes[split]:
            _note_left_out(notes, len(files) - len(classes[split]), folders[split], "beside the folders of classes")
            groups[split] = [one for one in files if one in classes[split]]
            _note_empty(notes, groups[split], folders[split])
    trained = set(map(loosely, classes.get("train", {}).values()))
    for split, found in classes.items():
        if trained and found and not trained.intersection(map(loosely, found.values())):
            notes.append(f"the folders of {split!r} are none of the classes of 'train': took it as without labels")
            classes[split] = {}
        unknown = sorted({name for name in classes[split].values() if loosely(name) not in trained}) if trained else []
        if unknown:
            notes.append(
                f"only {split!r} holds the classes {', '.join(unknown[:5])}{', …' if len(unknown) > 5 else ''}"
            )
    names = sorted({name for found in classes.values() for name in found.values()})
    if len(names) > 1 and all(map(split_word, names)):
        raise InputError(
            f"The folders of {str(root)!r} that hold the pictures are called {' and '.join(names[:4])}: splits, and no "
            "classes. Put the splits on top: train/cat, train/dog, test/cat, test/dog."
        )
    return DatasetDict({split: _rows(files, classes[split], names) for split, files in groups.items()}), tuple(notes)


def _rows(files: list[Path], classes: dict[Path, str], names: list[str]) -> Dataset:
    columns: dict[str, list] = {"image": [str(path) for path in files]}
    features = Features({"image": Image()})
    if names:
        number = {name: position for position, name in enumerate(names)}
        columns["label"] = [number[classes[path]] if path in classes else _NO_LABEL for path in files]
        features["label"] = ClassLabel(names=names)
    return Dataset.from_dict(columns, features=features)


def _classes(files: list[Path], base: Path, notes: list[str]) -> dict[Path, str]:
    """Class of each picture that lies in a folder below ``base``: the folder's name; a note where others stand above.

    Where all folders are called alike (``cat/images``, ``dog/images``), the name above them tells the classes apart.
    """
    folders = {path: path.parent.relative_to(base).parts for path in files if path.parent != base}
    while len(set(folders.values())) > 1 and len({parts[-1] for parts in folders.values()}) == 1:
        if any(len(parts) == 1 for parts in folders.values()):
            break
        folders = {path: parts[:-1] for path, parts in folders.items()}
    deep = sorted({"/".join(parts) for parts in folders.values() if len(parts) > 1})
    if deep:
        note = f"took the folder that each picture lies in for its class, and not those above it ({deep[0]}, say)"
        notes += [] if note in notes else [note]
    return {path: parts[-1] for path, parts in folders.items()}


def _files(folder: Path) -> Iterator[Path]:
    above: dict[str, frozenset[str]] = {}
    for place, inside, names in os.walk(os.path.abspath(folder), onerror=_unreadable, followlinks=True):
        inside[:] = [one for one in inside if not one.startswith(".") and one not in _OF_SYSTEMS]
        real, higher = os.path.realpath(place), above.get(os.path.dirname(place), frozenset())
        if real in higher:
            # A link that leads back up would be walked for ever; one to a folder beside it is a folder like others.
            inside[:] = []
            continue
        above[place] = higher | {real}
        yield from (Path(place, name) for name in names if not name.startswith("."))


def _note_empty(notes: list[str], files: list[Path], base: Path) -> None:
    """Says which folders beside those of the classes hold no picture: a class of theirs would be missing."""
    places = {path.parent for path in files}
    holding = places | {folder for place in places for folder in place.parents}
    beside = {base} | {place.parent for place in places if base in place.parents}
    empty = sorted(one.name for folder in beside for one in folder.iterdir() if one.is_dir() and one not in holding)
    empty = [name for name in empty if not name.startswith(".") and name not in _OF_SYSTEMS]
    if empty:
        notes.append(f"no class for folders without a picture: {', '.join(empty[:5])}{', …' if len(empty) > 5 else ''}")


def _unreadable(error: OSError) -> None:
    raise InputError(
        f"The folder {error.filename!r} cannot be read: {error.strerror}. Mend its permissions."
    ) from error


def _note_left_out(notes: list[str], count: int, folder: Path, why: str) -> None:
    if count:
        are = "1 picture" if count == 1 else f"{count} pictures"
        notes.append(f"left out {are} below {folder.name!r}, {why}")


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")


def _kinds(files: Iterable[Path]) -> str:
    """How many files there are of each suffix, the four most frequent."""
    kinds = Counter(path.suffix.lower() or "no suffix" for path in files)
    often = sorted(kinds, key=lambda kind: (-kinds[kind], kind))
    return ", ".join(f"{kinds[kind]} × {kind}" for kind in often[:4])


def _nothing_found(root: Path) -> str:
    return (
        f"No images were found in {str(root)!r} (it holds {_kinds(_files(root)) or 'nothing'}). Expected folders of "
        "images by class (class_a/1.png), parquet files, WebDataset shards (.tar), or a folder written by "
        "Dataset.save_to_disk."
    )
