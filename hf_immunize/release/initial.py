"""θ0 of a release on the Hub: a branch of its own, so that it loads with ``revision="initial"``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from hf_immunize.hub import patiently

__all__ = ["INITIAL", "initial_files", "initial_sent"]

#: The folder of a release, and the branch of its repository, that hold θ0 where nobody could fetch it otherwise.
INITIAL = "initial"
_CARD = "θ0 of the release on the branch `main`: what its claims are relative to.\n"


def initial_files(names: Sequence[str]) -> list[str]:
    """Those of a release's relative paths that go to the branch."""
    return [name for name in names if name.startswith(f"{INITIAL}/")]


@contextmanager
def initial_sent(api: HfApi, repo_id: str, folder: Path, names: Sequence[str]) -> Iterator[None]:
    """Puts ``names`` of a folder on the branch, at its root, before the release itself goes up.

    If the release then does not, a branch that is new is taken away; one that was there has the new θ0, and the next
    push goes on from it.

    Args:
        api: with a token.
        repo_id: that exists.
        folder: of the release.
        names: relative paths below ``initial/``; nothing is done without any.
    """
    if not names:
        yield
        return
    refs = {one.name: one.target_commit for one in patiently(lambda: api.list_repo_refs(repo_id)).branches}
    if INITIAL not in refs:
        patiently(lambda: api.create_branch(repo_id, branch=INITIAL, exist_ok=True))
    try:
        patiently(lambda: _commit(api, repo_id, folder, names))
        yield
    except BaseException:
        # The first error is the one to tell.
        with contextlib.suppress(Exception):
            if INITIAL not in refs:
                api.delete_branch(repo_id, branch=INITIAL)
        raise


def _commit(api: HfApi, repo_id: str, folder: Path, names: Sequence[str]) -> None:
    there = api.model_info(repo_id, revision=INITIAL)
    own = [name.removeprefix(f"{INITIAL}/") for name in names]
    stale = [one.rfilename for one in there.siblings or [] if one.rfilename not in (*own, ".gitattributes")]
    api.create_commit(
        repo_id,
        [
            *(CommitOperationAdd(path_in_repo=one, path_or_fileobj=str(folder / INITIAL / one)) for one in own),
            CommitOperationAdd(path_in_repo="README.md", path_or_fileobj=_CARD.encode()),
            *(CommitOperationDelete(path_in_repo=one) for one in stale if one != "README.md"),
        ],
        commit_message="θ0 of the release",
        revision=INITIAL,
        parent_commit=there.sha,
    )
