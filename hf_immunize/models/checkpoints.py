"""Where a checkpoint lies: a folder, or a commit of a repository on the Hub, at its root or in a subfolder."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import yaml
from huggingface_hub import HfApi, ModelCard, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from hf_immunize.errors import InputError, MissingFileError
from hf_immunize.hub import hub_errors, no_such_folder, patiently, split_revision, split_subfolder
from hf_immunize.models.untrusted import MOST_JSON, WEIGHTS_INDEX_NAME, WEIGHTS_NAME, shards_of

__all__ = ["Checkpoint", "checkpoint_license", "find_checkpoint"]

_TIMM_PREFIX = re.compile(r"^hf[-_]hub:", re.IGNORECASE)


@dataclass
class Checkpoint:
    """A checkpoint that was found.

    Attributes:
        name: the Hub id, with the subfolder behind it, or the folder's name.
        source: what the libraries are asked for: the Hub id, or the folder's path.
        config: path of its ``config.json``.
        revision: the commit hash on the Hub, None for a folder.
        kind: ``"hub"`` or ``"local"``.
        files: names of the files beside it.
        subfolder: of the repository that holds it; empty at its root.
        above: names of the files at the root of the repository; none for a folder.
        timm_only: the user wrote ``hf-hub:``.
        offline: the Hub could not be reached, and the local cache holds the checkpoint.
    """

    name: str
    source: str
    config: Path
    revision: str | None
    kind: str
    files: frozenset[str] = frozenset()
    subfolder: str = ""
    above: frozenset[str] = frozenset()
    timm_only: bool = False
    offline: bool = False

    def download(self, name: str, token: str | bool | None, *, above: bool = False) -> Path:
        """One more file of the same commit; of the root of the repository with ``above``."""
        if self.kind == "local":
            return self.config.parent / name
        shared: dict[str, Any] = {"revision": self.revision, "token": token, "local_files_only": self.offline}
        subfolder = None if above else self.subfolder or None
        with hub_errors(self.source, self.revision):
            return Path(patiently(lambda: hf_hub_download(self.source, name, subfolder=subfolder, **shared)))

    def weights(self, token: str | bool | None) -> list[Path]:
        """The files with the weights, fetched; none where there are no safetensors.

        Raises:
            InputError: an index that leads out of the folder or to files of another kind, or a shard that is missing.
        """
        if WEIGHTS_NAME in self.files:
            return [self.download(WEIGHTS_NAME, token)]
        if WEIGHTS_INDEX_NAME not in self.files:
            return []
        shards = shards_of(self.download(WEIGHTS_INDEX_NAME, token))
        missing = [name for name in shards if name not in self.files]
        if missing:
            raise InputError(f"{self.name} lacks {', '.join(missing)}, which {WEIGHTS_INDEX_NAME} names.")
        return [self.download(name, token) for name in shards]


def find_checkpoint(name_or_path: str | os.PathLike[str], revision: str | None, token: str | bool | None) -> Checkpoint:
    """Finds the checkpoint behind a Hub id with or without ``@revision``, a bare name of timm's, or a folder.

    More than two parts are a subfolder of a repository: ``user/name/sub/folder@revision``.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no such id, private or gated, no such revision, or no ``config.json`` in it.
        ConnectionError: the Hub cannot be reached, and the cache does not hold it.
    """
    given = os.fspath(name_or_path).removeprefix("local-dir:")
    if not given:
        raise InputError("The name of the model is empty. Give a Hub id (user/name) or a folder.")
    folder = Path(given).expanduser()
    if folder.is_dir():
        if revision:
            raise InputError(f"{given} is a local folder, which has no revision {revision!r}. Leave the revision away.")
        if not (folder / "config.json").is_file():
            raise InputError(f"{given} holds no config.json: it is no saved model. {_adapter_hint(folder)}".rstrip())
        files = frozenset(path.name for path in folder.iterdir() if path.is_file())
        return Checkpoint(folder.resolve().name, str(folder), folder / "config.json", None, "local", files)
    if folder.exists():
        raise InputError(f"{given} is a file. Give the folder that holds config.json and model.safetensors.")
    if given.startswith(("/", ".", "~")) or os.path.isabs(given):
        raise MissingFileError(f"There is no folder {given}. Give an existing folder, or a Hub id written user/name.")
    timm_only = bool(_TIMM_PREFIX.match(given))
    asked, revision = split_revision(_TIMM_PREFIX.sub("", given), revision)
    repo_id, subfolder = split_subfolder(_timm_hub_id(asked) or asked)
    with no_such_folder(given, repo_id, subfolder):
        return _on_the_hub(repo_id, subfolder, revision, token, timm_only)


def _on_the_hub(
    repo_id: str, subfolder: str, revision: str | None, token: str | bool | None, timm_only: bool
) -> Checkpoint:
    offline = False
    try:
        # Asked first because it fails at once without a network, where a download would retry for half a minute.
        with hub_errors(repo_id, revision):
            info = patiently(lambda: HfApi().model_info(repo_id, revision=revision, token=token))
        names = [one.rfilename for one in info.siblings or []]
    except ConnectionError as error:
        no_network, offline = error, True
    where: dict[str, Any] = {
        "subfolder": subfolder or None,
        "revision": revision,
        "token": token,
        "local_files_only": offline,
    }
    name = f"{repo_id}/{subfolder}" if subfolder else repo_id
    with hub_errors(repo_id, revision):
        try:
            path = Path(patiently(lambda: hf_hub_download(repo_id, "config.json", **where)))
        except LocalEntryNotFoundError:
            if offline:
                raise no_network from None
            raise
        except EntryNotFoundError as error:
            raise InputError(f"{name} holds no config.json: it is no model that can be loaded by name.") from error
    # The cache keeps each commit in a folder of that name: the hash that a branch or tag stands for.
    snapshot = path.parents[len(subfolder.split("/")) if subfolder else 0]
    if offline:
        names = [one.relative_to(snapshot).as_posix() for one in snapshot.rglob("*")]
    files = frozenset(one.rpartition("/")[2] for one in names if one.rpartition("/")[0] == subfolder)
    above = frozenset(one for one in names if "/" not in one)
    return Checkpoint(
        name, repo_id, path, snapshot.name, "hub", files, subfolder, above, timm_only=timm_only, offline=offline
    )


def _timm_hub_id(name: str) -> str | None:
    """The Hub id behind a bare name of timm's (``resnet18``, ``resnet18.a1_in1k``), None for any other name."""
    if "/" in name or not timm.is_model(name):
        return None
    config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    if config is None or not config.hf_hub_id:
        raise InputError(f"timm has no pretrained weights on the Hub for {name!r}. See timm.list_pretrained().")
    base = config.hf_hub_id
    if not base.endswith("/"):
        return base
    return f"{base}{config.architecture}.{config.tag}" if config.tag else f"{base}{config.architecture}"


def checkpoint_license(found: Checkpoint, token: str | bool | None) -> str | None:
    """What the card of the repository or folder states; None without one that can be read."""
    above = "README.md" in found.above
    if not above and "README.md" not in found.files:
        return None
    try:
        path = found.download("README.md", token, above=above)
        if path.stat().st_size > MOST_JSON:
            return None
        given = ModelCard.load(path, ignore_metadata_errors=True).data.license
        return given if isinstance(given, str) else None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, yaml.YAMLError):
        # The licence is a courtesy to the new card: a missing or malformed old one must not keep the model away.
        return None


def _adapter_hint(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return "It holds a PEFT adapter: merge it into its base model and save that."
    return ""
