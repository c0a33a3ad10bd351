"""What a push would send, worked out without the network."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.utils import validate_repo_id

from hf_immunize.hub import hub_errors
from hf_immunize.release.card import create_model_card
from hf_immunize.release.certify import certified, check_private
from hf_immunize.release.figures import FIGURES_FOLDER
from hf_immunize.release.files import released_files
from hf_immunize.release.merging import CARD_NAME, merge_cards, read_card
from hf_immunize.release.record import ImmunizationRecord

__all__ = ["PushPlan", "card_for", "check_repo_id", "plan_push", "with_metadata"]


@dataclass(frozen=True)
class PushPlan:
    """What a push would send.

    Attributes:
        repo_id: where to.
        files: relative path → bytes.
        card: the text of README.md as it goes up, but for what stands on the Hub.
        left_out: files of the folder that are no part of a release.
    """

    repo_id: str
    files: dict[str, int]
    card: str
    left_out: tuple[str, ...] = ()

    def __str__(self) -> str:
        width = max(map(len, self.files))
        lines = [f"{name.ljust(width)}  {size:>13,} bytes" for name, size in self.files.items()]
        return "\n".join([*lines, f"{'in all'.ljust(width)}  {sum(self.files.values()):>13,} bytes", "", self.card])


def plan_push(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    metadata: Mapping[str, Any] | None = None,
    token: str | None = None,
) -> PushPlan:
    """Checks a folder as a push does and renders its card, without the network.

    Args:
        folder: that ``save_immunized`` wrote.
        repo_id: ``user/name``.
        metadata: of the card, beside what follows from the record: ``language``, ``tags``, …
        token: looked for in every file, beside whatever looks like a token.

    Raises:
        FileNotFoundError: no such folder.
        InputError: the folder is not whole or not as it was saved, holds a token, or an invalid ``repo_id``.
    """
    check_repo_id(repo_id)
    folder = Path(folder).expanduser()
    # First of all a token is told, whatever else is wrong with the folder.
    names, left_out = released_files(folder)
    check_private(folder, names, token)
    record = certified(folder)
    card = card_for(folder, record, repo_id, with_metadata(read_card(folder / CARD_NAME), metadata))
    sizes = {name: (folder / name).stat().st_size for name in names} | {CARD_NAME: len(card.encode())}
    return PushPlan(repo_id, sizes, card, tuple(left_out))


def check_repo_id(repo_id: str) -> None:
    with hub_errors(repo_id, writing=True):
        validate_repo_id(repo_id)


def card_for(folder: Path, record: ImmunizationRecord, repo_id: str, existing: str) -> str:
    """The card for ``repo_id``, with the author's text of ``existing``."""
    figures = tuple(sorted(path.name for path in (folder / FIGURES_FOLDER).glob("*.png")))
    return str(create_model_card(record, repo_id, existing=existing, figures=figures))


def with_metadata(card: str, metadata: Mapping[str, Any] | None) -> str:
    if not metadata:
        return card
    front = ModelCardData(**{key: value for key, value in metadata.items() if value is not None})
    return str(merge_cards(f"---\n{front.to_yaml()}\n---\n", ModelCard(card)))
