"""What a verification measured, offered to the model's authors as a pull request."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi

from hf_immunize.errors import InputError
from hf_immunize.hub import hub_errors, patiently, split_revision, split_subfolder
from hf_immunize.release.card_metadata import eval_results_yaml
from hf_immunize.release.verify import Verification

__all__ = ["VERIFIED_RESULTS_NAME", "check_can_ask", "push_verified"]

#: Beside the file that the authors' own push writes, so that one reads claimed and verified figures apart.
VERIFIED_RESULTS_NAME = ".eval_results/hf_immunize_verified.yaml"


def check_can_ask(name: str, *, token: str | bool | None = None) -> None:
    """Whether the verification of ``name`` could go up as a pull request; worth calling before any work.

    Raises:
        UserError: a folder or a subfolder, whose results the Hub does not show; no token.
        ConnectionError: the Hub cannot be reached.
    """
    repo_id, subfolder = split_subfolder(split_revision(name)[0])
    if Path(name).expanduser().is_dir():
        raise InputError(f"A pull request goes to a repository of the Hub, and {name} is a folder.")
    if subfolder:
        raise InputError(
            f"The Hub shows results of a repository as a whole, and {subfolder} is a subfolder of {repo_id}: no pull "
            "request can be opened."
        )
    with hub_errors(repo_id, writing=True):
        patiently(lambda: HfApi(token=token).whoami())


def push_verified(found: Verification, *, token: str | bool | None = None) -> CommitInfo:
    """Opens a pull request with the figures of a verification, in the Hub's form of results.

    Raises:
        UserError: a folder or a subfolder, nothing that was measured on data of the Hub, no token.
        ConnectionError: the Hub cannot be reached.
    """
    if found.revision is None:
        raise InputError("A pull request goes to a repository of the Hub, and a folder was verified.")
    check_can_ask(found.name, token=token)
    measured = dataclasses.replace(found.record, results=found.measured)
    text = eval_results_yaml(measured)
    if text is None:
        raise InputError(
            "Nothing was measured on data of the Hub, and the Hub keeps results on its own data sets alone. Nothing "
            "was opened."
        )
    outcome = "all claims hold" if found.holds else "not all claims hold"
    with hub_errors(found.name, writing=True):
        return HfApi(token=token, library_name="hf_immunize").create_commit(
            found.name,
            [CommitOperationAdd(path_in_repo=VERIFIED_RESULTS_NAME, path_or_fileobj=text.encode())],
            commit_message=f"Measured again with hf_immunize: {outcome}",
            commit_description=f"At commit {found.revision}.\n\n```text\n{found}\n```",
            create_pr=True,
        )
