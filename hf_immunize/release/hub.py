"""A saved folder to the Hub in one commit, and names to commit hashes."""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    get_token,
    hf_hub_download,
)
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from torch import nn

from hf_immunize.errors import InputError, MissingFileError
from hf_immunize.hub import hub_errors, split_revision
from hf_immunize.release.card import create_model_card
from hf_immunize.release.files import generated_files
from hf_immunize.release.folder import missing_parts, save_immunized
from hf_immunize.release.merging import CARD_NAME, author_text, edited_inside, merge_cards
from hf_immunize.release.record import COMMIT_HASH, ImmunizationRecord

__all__ = ["push_to_hub", "resolve_revision"]

logger = logging.getLogger(__name__)

#: What may go up besides the generated files: an author's licence texts and further figures.
_AUTHORS_FILES = re.compile(r"(LICENSE|NOTICE)(\.\w+)?|figures/[^/]+\.(png|svg)|\.eval_results/[^/]+\.yaml")
_TEXT_FILES = (".json", ".md", ".yaml", ".txt", ".svg", "")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")


def push_to_hub(
    folder_or_model: str | os.PathLike[str] | nn.Module,
    repo_id: str,
    *,
    record: ImmunizationRecord | None = None,
    image_processor: Callable[..., Any] | None = None,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    commit_description: str | None = None,
    create_pr: bool = False,
) -> CommitInfo:
    """Uploads a release in one commit.

    Only files of a release go up: weights in safetensors, configuration, preprocessing, record, figures, card, results
    and the author's LICENSE or NOTICE. ``training_args.bin``, optimizer states and checkpoints never do. The card is
    written for ``repo_id``; what an author wrote around the generated part, here or on the Hub, is kept.

    Args:
        folder_or_model: a folder that ``save_immunized`` wrote, or a model together with its ``record``.
        repo_id: ``user/name``; created if it does not exist.
        record: of a model that is not saved yet.
        image_processor: of a transformers model that is not saved yet.
        private: who may read a newly created repository; None takes the account's default.
        token: of the Hub with write access; by default the one that is logged in.
        revision: a branch, created if it does not exist; main by default.
        commit_message: first line of the commit.
        commit_description: the rest of it.
        create_pr: open a pull request instead of writing to the branch.

    Returns:
        the commit: ``.oid``, ``.commit_url``, and ``.pr_url`` of a pull request.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: the folder is not whole or holds a token, no token, no write access, an invalid ``repo_id``.
        ConnectionError: the Hub cannot be reached.
    """
    if isinstance(folder_or_model, nn.Module):
        if record is None:
            raise InputError("A model is pushed with its record: pass record=…, or push the folder it was saved to.")
        with tempfile.TemporaryDirectory() as parent:
            folder = save_immunized(Path(parent) / repo_id.split("/")[-1], folder_or_model, record, image_processor)
            return push_to_hub(
                folder,
                repo_id,
                private=private,
                token=token,
                revision=revision,
                commit_message=commit_message,
                commit_description=commit_description,
                create_pr=create_pr,
            )
    folder = Path(folder_or_model).expanduser()
    check_whole(folder)
    secret = token if isinstance(token, str) else get_token()
    if not secret:
        raise InputError(
            "No Hub token: pushing needs one with write access. Log in with `hf auth login`, set HF_TOKEN, or "
            "pass token=…."
        )
    names = _release_files(folder, secret)
    api = HfApi(token=secret, library_name="hf_immunize")
    with hub_errors(repo_id, revision, writing=True):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not create_pr and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        head = api.model_info(repo_id, revision=revision)
        on_hub = [sibling.rfilename for sibling in head.siblings or []]
        card = _card_for(repo_id, folder, _remote_card(repo_id, head.sha, on_hub, secret))
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(folder / name))
            for name in names
            if name != CARD_NAME
        ]
        operations.append(CommitOperationAdd(path_in_repo=CARD_NAME, path_or_fileobj=card.encode()))
        # A shard or figure of an earlier push would be read as part of this one.
        operations += [
            CommitOperationDelete(path_in_repo=name) for name in generated_files(on_hub) if name not in names
        ]
        return api.create_commit(
            repo_id,
            operations,
            commit_message=commit_message or "Add immunized model",
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
            # The card was merged with what stood at this commit; a later edit must not be written over.
            parent_commit=head.sha,
        )


def resolve_revision(repo_id: str, revision: str | None = None, *, token: str | None = None) -> str:
    """The commit hash behind a branch, tag or short name of a model on the Hub.

    Args:
        repo_id: ``user/name``, also with ``@revision``.
        revision: main by default; a full commit hash is returned as it is.
        token: of the Hub, for private models.

    Raises:
        ValueError: no such model or revision.
        ConnectionError: the Hub cannot be reached.
    """
    repo_id, revision = split_revision(repo_id, revision)
    if revision and COMMIT_HASH.fullmatch(revision):
        return revision
    with hub_errors(repo_id, revision):
        return cast(str, HfApi(token=token).model_info(repo_id, revision=revision).sha)


def check_whole(folder: Path) -> None:
    """Says what a folder lacks to be released.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: something is missing, or the record cannot be read.
    """
    if not folder.is_dir():
        raise MissingFileError(f"There is no folder {folder}. Give the folder that training wrote (--output_dir).")
    missing = missing_parts(folder)
    if missing:
        raise InputError(
            f"{folder} is no whole release: it lacks {', '.join(missing)}. Write it with save_immunized(…) or "
            "`hf-immunize train`, and push that."
        )
    ImmunizationRecord.load(folder)
    card = (folder / CARD_NAME).read_text(encoding="utf-8")
    for image in re.findall(r"!\[[^\]]*\]\((figures/[^)\s]+)\)", card):
        if not (folder / image).is_file():
            raise InputError(f"{folder / CARD_NAME} shows {image}, which is missing. Save the release again.")


def _release_files(folder: Path, secret: str) -> list[str]:
    """Relative paths of what goes up; refuses to when one of them holds a token."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    generated = set(generated_files(files))
    names = [name for name in files if name in generated or _AUTHORS_FILES.fullmatch(name)]
    left_out = [name for name in files if name not in names]
    if left_out:
        logger.info("Not uploaded, no part of a release: %s", ", ".join(left_out))
    for name in names:
        if Path(name).suffix.lower() not in _TEXT_FILES:
            continue
        text = (folder / name).read_text(encoding="utf-8", errors="replace")
        if secret in text or _TOKEN.search(text):
            raise InputError(f"{folder / name} holds a Hub token. Remove it, revoke the token, and push again.")
    return names


def _remote_card(repo_id: str, revision: str | None, on_hub: list[str], secret: str) -> str | None:
    if CARD_NAME not in on_hub:
        return None
    try:
        path = hf_hub_download(repo_id, CARD_NAME, revision=revision, token=secret)
    except LocalEntryNotFoundError:
        raise
    except EntryNotFoundError:
        return None
    return Path(path).read_text(encoding="utf-8")


def _card_for(repo_id: str, folder: Path, remote: str | None) -> str:
    """The card for ``repo_id``, with the author's text from the Hub and from the folder."""
    local = (folder / CARD_NAME).read_text(encoding="utf-8")
    if edited_inside(local):
        # Somebody reworded the generated part itself: their words go up as they are.
        card = ModelCard(local)
    else:
        figures = tuple(sorted(path.name for path in (folder / "figures").glob("*.png")))
        card = create_model_card(ImmunizationRecord.load(folder), repo_id, figures=figures)
        card = merge_cards(local, card)
    if remote is None:
        return str(card)
    merged = merge_cards(remote, card)
    for before, text in zip((True, False), author_text(str(card)), strict=True):
        if text.strip() and text.strip() not in merged.text:
            merged.text = f"{text.rstrip()}\n{merged.text}" if before else f"{merged.text.rstrip()}\n\n{text.strip()}\n"
    return str(merged)
