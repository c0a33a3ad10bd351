"""Image data sets as users name them: Hub ids, folders of images or of `save_to_disk`, parquet."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset, load_dataset
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub import HfApi

from hf_immunize.data.local import load_local, reading_errors
from hf_immunize.data.splits import training_split
from hf_immunize.errors import HubConnectionError, InputError, InputTypeError
from hf_immunize.hub import hub_errors, split_revision

__all__ = ["AS_AN_OBJECT", "Source", "as_pair", "as_source", "load_images", "load_source"]

#: The name of data that have none.
AS_AN_OBJECT = "data passed as an object"
_ROWS = (Dataset, IterableDataset)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Source:
    """All splits of one data set, and where they came from.

    Attributes:
        splits: by name, data sets or streams.
        name: the Hub id without its revision, or the base name of a folder or file.
        revision: the commit on the Hub that was loaded.
        config: the configuration of a Hub data set.
        kind: ``"hub"``, ``"local"`` or ``"object"``.
        notes: what the user should know about how it was read, as sentences.
    """

    splits: Mapping[str, Any]
    name: str
    revision: str | None
    config: str | None
    kind: str = "object"
    notes: tuple[str, ...] = ()


def load_source(
    name: str | os.PathLike[str],
    *,
    config: str | None = None,
    token: str | bool | None = None,
    streaming: bool = False,
    label_column: str | None = None,
) -> Source:
    """Loads all splits of a data set by its name.

    Args:
        name: a Hub id (``ylecun/mnist``, with ``@revision`` if wanted), or a folder or file as
            :func:`hf_immunize.data.local.load_local` reads it.
        config: the configuration of a Hub data set that has several.
        token: for private data sets.
        streaming: read rows as they are needed, without downloading or converting the data set first.
        label_column: where the user named it.

    Raises:
        ValueError: nothing there, or nothing that can be read as pictures.
        ConnectionError: the Hub cannot be reached and the cache does not hold the data.
    """
    name = os.fspath(name)
    if not name:
        raise InputError("The name of the data set is empty. Give a Hub id, or the path of an existing folder.")
    path = Path(name).expanduser()
    if path.exists():
        splits, notes = load_local(path, config, streaming=streaming, label_column=label_column)
        if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
            notes = (*notes, f"{name!r} is a path here: took what lies there, not a data set of the Hub")
        return Source(splits, path.resolve().name, None, config, "local", notes)
    if name.startswith((".", "/", "~")) or name.partition("@")[0].count("/") > 1:
        raise InputError(f"There is no data set at {name!r}. Give a Hub id, or the path of an existing folder.")
    return _load_hub(name, config, token, streaming)


def as_source(
    given: Any,
    config: str | None = None,
    token: str | bool | None = None,
    streaming: bool = False,
    label_column: str | None = None,
) -> Source:
    """All splits of what the user gave: a name, one data set, or a mapping of splits; streams of them will do.

    Raises:
        TypeError: no data set at all.
        ValueError: a configuration of data that are loaded already; and as :func:`load_source`.
    """
    if isinstance(given, (str, os.PathLike)):
        return load_source(given, config=config, token=token, streaming=streaming, label_column=label_column)
    if config is not None:
        raise InputError(f"The configuration {config!r} was named for data that are loaded already. Leave it away.")
    if isinstance(given, _ROWS):
        return Source({"train": given}, AS_AN_OBJECT, None, None)
    if isinstance(given, Mapping) and given and all(isinstance(one, _ROWS) for one in given.values()):
        return Source(dict(given), AS_AN_OBJECT, None, None)
    kinds = {type(one).__name__ for one in given.values()} if isinstance(given, Mapping) else {type(given).__name__}
    raise InputTypeError(
        "A data set was expected: its Hub id, a folder, a datasets.Dataset, a DatasetDict or a pair (training rows, "
        f"evaluation rows); got {', '.join(sorted(kinds)) or 'nothing'}."
    )


def as_pair(given: Sequence[Any]) -> tuple[Any, Any]:
    """Training and evaluation rows that were given beside each other, data sets or streams.

    Raises:
        TypeError: not two data sets.
        ValueError: one of them is empty.
    """
    if len(given) != 2 or not all(isinstance(one, _ROWS) for one in given):
        kinds = ", ".join(type(one).__name__ for one in given)
        raise InputTypeError(f"A pair of data sets (training rows, evaluation rows) was expected, got ({kinds}).")
    for role, rows in zip(("training", "evaluation"), given, strict=True):
        if isinstance(rows, Dataset) and not len(rows):
            raise InputError(f"The {role} rows of the pair are empty.")
    return given[0], given[1]


def load_images(
    name: str | os.PathLike[str],
    split: str | None = None,
    *,
    config: str | None = None,
    token: str | bool | None = None,
    streaming: bool = False,
) -> Any:
    """Loads one split of an image data set.

    Args:
        name: as :func:`load_source` reads it.
        split: a split, a slice of one (``train[:10%]``) or a sum (``train+validation``); needed only where there are
            several and none is called ``train``.
        config: the configuration of a Hub data set that has several.
        token: for private data sets.
        streaming: give a `datasets.IterableDataset`, whose rows are read as they are needed.

    Raises:
        ValueError: nothing there, an unknown split, an empty one.
    """
    source = load_source(name, config=config, token=token, streaming=streaming)
    return training_split(source.splits, split, os.fspath(name)).rows


def _load_hub(name: str, config: str | None, token: str | bool | None, streaming: bool) -> Source:
    repo, asked = split_revision(name)
    commit = _commit_on_hub(repo, asked, token)
    try:
        with reading_errors(name, "a data set of pictures"):
            splits = load_dataset(repo, config, revision=commit or asked, token=token, streaming=streaming)
    except DatasetNotFoundError as error:
        raise InputError(
            f"The data set {name!r} is not on the Hub, or it is private or gated and you are not logged in. Check its "
            "name, or run `hf auth login`."
        ) from error
    except ConnectionError as error:
        raise HubConnectionError(
            f"The Hub could not be reached for the data set {name!r}. Check the network, or give a local folder."
        ) from error
    first = next(iter(splits.values()))
    notes = []
    if commit is None:
        commit = None if streaming else _commit_in_cache(first)
        if asked and _COMMIT.fullmatch(asked) and commit not in (None, asked):
            raise InputError(
                f"The Hub could not be reached, and the cache holds {repo} at {commit}, not at {asked}. Go online, or "
                f"take {repo}@{commit}."
            )
        found = f"the cache holds commit {commit}" if commit else "the cache does not say its commit"
        notes.append(f"the Hub could not be asked which commit of {repo} is current; {found}")
    return Source(splits, repo, commit, config or first.info.config_name, "hub", tuple(notes))


def _commit_on_hub(repo: str, revision: str | None, token: str | bool | None) -> str | None:
    """The commit that a revision stands for now; None where the Hub cannot be reached."""
    try:
        with hub_errors(f"datasets/{repo}", revision):
            return HfApi().dataset_info(repo, revision=revision, token=token).sha
    except HubConnectionError:
        return None


def _commit_in_cache(rows: Dataset) -> str | None:
    """`datasets` keeps what it made of a commit in a folder of that name."""
    folders = (Path(file["filename"]).parent.name for file in rows.cache_files)
    return next((name for name in folders if _COMMIT.fullmatch(name)), None)
