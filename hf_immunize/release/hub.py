"""A saved folder to the Hub in one commit."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    get_token,
    hf_hub_download,
)
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from torch import nn

from hf_immunize.data.whole_files import whole_file
from hf_immunize.errors import InputError
from hf_immunize.hub import hub_errors, patiently
from hf_immunize.models.untrusted import read_json
from hf_immunize.release.certify import certified
from hf_immunize.release.files import generated_files
from hf_immunize.release.folder import save_immunized
from hf_immunize.release.initial import initial_files, initial_sent
from hf_immunize.release.merging import CARD_NAME, read_card, reconcile, without_generated
from hf_immunize.release.plan import card_for, check_repo_id, plan_push, with_metadata
from hf_immunize.release.record import RECORD_NAME, ImmunizationRecord

__all__ = ["check_can_push", "push_to_hub"]

logger = logging.getLogger(__name__)

#: In the folder: what it pushed last, by repository and branch, so that the next push knows who changed what.
_PUSHED = Path(".cache") / "hf_immunize" / "pushed.json"


def check_can_push(repo_id: str, *, token: str | None = None) -> tuple[str, str]:
    """Whether a push may write to a repository, as far as the token says; worth calling before any work.

    Returns:
        the token that a push would use, and the id with its owner.

    Raises:
        InputError: an invalid ``repo_id``, no token, or no right to write under that name.
        ConnectionError: the Hub cannot be reached.
    """
    check_repo_id(repo_id)
    secret = token if isinstance(token, str) else get_token()
    if not secret:
        raise InputError(
            "No Hub token: pushing needs one with write access. Log in with `hf auth login`, set HF_TOKEN, or "
            "pass token=…."
        )
    with hub_errors(repo_id, writing=True):
        account = patiently(lambda: HfApi(token=secret, library_name="hf_immunize").whoami())
    names = [str(one.get("name")) for one in (account, *(account.get("orgs") or []))]
    owner, _, name = repo_id.rpartition("/")
    role = ((account.get("auth") or {}).get("accessToken") or {}).get("role")
    if role == "read" or (owner and owner not in names):
        raise InputError(
            f"This token may not write to {repo_id}: it {'only reads' if role == 'read' else f'is not of {owner}'}. "
            f"Make one with write access, or choose a repo_id under {' or '.join(names)}."
        )
    return secret, f"{owner or names[0]}/{name}"


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
    metadata: Mapping[str, Any] | None = None,
    beside: Mapping[str, nn.Module] | None = None,
) -> CommitInfo:
    """Uploads a release in one commit.

    Only files of a release go up, as they were saved: weights in safetensors, configuration, preprocessing, record,
    figures, card, results and the author's LICENSE or NOTICE. ``training_args.bin``, optimizer states and checkpoints
    never do. θ0, where the release carries it, goes to the branch ``initial``, so that a stranger has what the claims
    are relative to; beside a pull request or another branch it stays in the folder ``initial``. The card is written for
    ``repo_id``; what an author wrote around the generated part, here or on the Hub, is kept, and what they took out
    since the last push stays out.

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
        metadata: of the card, beside what follows from the record: ``language``, ``tags``, …
        beside: of a model that is not saved yet, as :func:`hf_immunize.save_immunized` takes them.

    Returns:
        the commit: ``.oid``, ``.commit_url``, and ``.pr_url`` of a pull request.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: the folder is not whole, was changed since it was saved, or holds a token; no token, no write
            access, an invalid ``repo_id``.
        ConnectionError: the Hub cannot be reached, or broke off; nothing was changed there.
    """
    if isinstance(folder_or_model, nn.Module):
        if record is None:
            raise InputError("A model is pushed with its record: pass record=…, or push the folder it was saved to.")
        check_can_push(repo_id, token=token)
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent) / repo_id.split("/")[-1]
            save_immunized(folder, folder_or_model, record, image_processor, beside=beside)
            return push_to_hub(
                folder,
                repo_id,
                private=private,
                token=token,
                revision=revision,
                commit_message=commit_message,
                commit_description=commit_description,
                create_pr=create_pr,
                metadata=metadata,
            )
    folder = Path(folder_or_model).expanduser()
    plan = plan_push(folder, repo_id, metadata=metadata, token=token if isinstance(token, str) else get_token())
    if plan.left_out:
        logger.info("Not uploaded, no part of a release: %s", ", ".join(plan.left_out))
    secret, repo_id = check_can_push(repo_id, token=token)
    api = HfApi(token=secret, library_name="hf_immunize")
    branch = None if create_pr or (revision or "").startswith("refs/") else revision
    with hub_errors(repo_id, revision, writing=True):
        there = _Remote.look(api, repo_id, revision, new_branch=branch is not None)
        last = None if create_pr else _pushed(folder).get(f"{repo_id}@{revision or 'main'}")
        record = certified(folder)
        local = with_metadata(read_card(folder / CARD_NAME), metadata)
        if there.card is not None:
            theirs = there.card if last is not None else there.authors_card(api, repo_id)
            local = reconcile(local, theirs, last)
        card = card_for(folder, record, repo_id, local)
        _check_metadata(card)
        apart = [] if create_pr or revision not in (None, "main") else initial_files(list(plan.files))
        operations = _operations(folder, record, [name for name in plan.files if name not in apart], card, there)
        with _made(api, repo_id, there, branch, private), initial_sent(api, repo_id, folder, apart):
            commit = patiently(
                lambda: api.create_commit(
                    repo_id,
                    operations(),
                    commit_message=commit_message or "Add immunized model",
                    commit_description=commit_description,
                    revision=revision,
                    create_pr=create_pr,
                    # The card was merged with what stood at this commit; a later edit must not be written over.
                    parent_commit=there.head,
                )
            )
    if not create_pr:
        _remember(folder, f"{repo_id}@{revision or 'main'}", local, card)
    return commit


@dataclass
class _Remote:
    """What stands on the Hub before a push: head commit, its files and its card; None and nothing if it is new."""

    head: str | None = None
    files: tuple[str, ...] = ()
    card: str | None = None
    has_branch: bool = False

    @classmethod
    def look(cls, api: HfApi, repo_id: str, revision: str | None, new_branch: bool) -> _Remote:
        try:
            try:
                info = patiently(lambda: api.model_info(repo_id, revision=revision))
                has_branch = True
            except RevisionNotFoundError:
                if not new_branch:
                    raise
                info, has_branch = patiently(lambda: api.model_info(repo_id)), False
        except RepositoryNotFoundError:
            return cls()
        files = tuple(one.rfilename for one in info.siblings or [])
        card = None
        if CARD_NAME in files:
            path = patiently(lambda: hf_hub_download(repo_id, CARD_NAME, revision=info.sha, token=api.token))
            card = read_card(Path(path))
        return cls(info.sha, files, card, has_branch)

    def authors_card(self, api: HfApi, repo_id: str) -> str:
        """The card without the licence and tags that the record beside it generated, where there is one."""
        assert self.card is not None, "asked of a repository with a card"
        if RECORD_NAME not in self.files:
            return self.card
        path = patiently(lambda: hf_hub_download(repo_id, RECORD_NAME, revision=self.head, token=api.token))
        try:
            record = read_json(path)
        except InputError:
            return self.card
        return without_generated(self.card, record)


@contextlib.contextmanager
def _made(api: HfApi, repo_id: str, there: _Remote, branch: str | None, private: bool | None) -> Iterator[None]:
    """Makes repository and branch where they are not there yet, and takes them away again if nothing came into them."""
    new, new_branch = there.head is None, branch is not None and not there.has_branch
    if new:
        patiently(lambda: api.create_repo(repo_id, private=private, exist_ok=True))
        there.head = patiently(lambda: api.model_info(repo_id)).sha
    if new_branch:
        patiently(lambda: api.create_branch(repo_id, branch=str(branch), exist_ok=True))
    try:
        yield
    except BaseException:
        # The first error is the one to tell; what cannot be taken away stays, and the next push uses it.
        with contextlib.suppress(Exception):
            if api.model_info(repo_id, revision=branch).sha == there.head:
                if new:
                    api.delete_repo(repo_id)
                elif new_branch:
                    api.delete_branch(repo_id, branch=str(branch))
        raise


def _check_metadata(card: str) -> None:
    try:
        patiently(ModelCard(card).validate)
    except ValueError as error:
        raise InputError(f"The Hub refuses the metadata of the card: {' '.join(str(error).split())}") from error


def _operations(
    folder: Path, record: ImmunizationRecord, names: Sequence[str], card: str, there: _Remote
) -> Callable[[], list[CommitOperationAdd | CommitOperationDelete]]:
    """What the commit does, made anew for each try: an operation is used once."""

    def make() -> list[CommitOperationAdd | CommitOperationDelete]:
        added = [
            CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(folder / name))
            for name in names
            if name != CARD_NAME
        ]
        for one in added:
            wanted = record.files.get(one.path_in_repo)
            if wanted is not None and one.upload_info.sha256.hex() != wanted:
                raise InputError(f"{folder / one.path_in_repo} was changed during the push; nothing was uploaded.")
        # A shard or figure of an earlier push would be read as part of this one.
        stale = [name for name in generated_files(there.files) if name not in names]
        return [
            *added,
            CommitOperationAdd(path_in_repo=CARD_NAME, path_or_fileobj=card.encode()),
            *(CommitOperationDelete(path_in_repo=name) for name in stale),
        ]

    return make


def _pushed(folder: Path) -> dict[str, str]:
    try:
        return {key: str(value) for key, value in read_json(folder / _PUSHED).items()}
    except (OSError, InputError):
        return {}


def _remember(folder: Path, key: str, local: str, pushed: str) -> None:
    """Both sides have the same words of the author now: the next push starts from these."""
    try:
        for path, text in (
            (folder / CARD_NAME, local),
            (folder / _PUSHED, json.dumps(_pushed(folder) | {key: pushed}, ensure_ascii=False)),
        ):
            with whole_file(path) as unfinished:
                unfinished.write_text(text, encoding="utf-8")
    except OSError as error:
        logger.warning("What was pushed cannot be noted in %s (%s): the next push keeps all words.", folder, error)
