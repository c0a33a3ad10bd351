"""The names in the generated part of a card: of the release itself, and of what its record was made from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from hf_immunize.release.markup import cell, code
from hf_immunize.release.record import ImmunizationRecord

__all__ = ["name_in", "other_names"]

_TITLE = re.compile(r"^# (.+)$", re.MULTILINE)
#: The literal that an example of the card loads the model by.
_LOADED = re.compile(r'(?:\bmodel=|from_pretrained\(|load_model\()("(?:[^"\\\n]|\\.)*")')

#: Task → its row in the table of data.
_ROWS = {"primary": "kept", "harmful": "harmful", "benign": "unrelated"}


def name_in(block: str, name: str) -> str:
    """The name that a card was written for, which a folder or a repository may have changed since.

    Args:
        block: the generated part.
        name: that the release has now, for a card that tells none.
    """
    title = _TITLE.search(block)
    if title is None:
        return name
    for literal in _LOADED.findall(block):
        loaded = str(json.loads(literal))
        if cell(loaded.split("/")[-1]) == title[1].strip():
            return loaded
    return title[1].replace("\\", "").strip()


def other_names(block: str, record: ImmunizationRecord) -> Iterator[tuple[str, str]]:
    """What a card names otherwise than the record: what it is, and the name that the record has for it.

    Only the lines that say it are looked at, and a card without such a line names nothing.
    """
    for what, begin, names in _named(record):
        lines = [_plain(line) for line in block.splitlines() if line.startswith(begin)]
        for name in map(_plain, names):
            # A longer name that holds this one is another.
            found = re.compile(rf"(?<![\w/-]){re.escape(name)}(?![\w/-]|\.\w)")
            if not all(found.search(line) for line in lines):
                yield what, name


def _named(record: ImmunizationRecord) -> Iterator[tuple[str, str, list[str]]]:
    """What is named, how its line begins, and the names that stand in it."""
    commit = [code(record.base_model_revision)] if record.base_model_revision else []
    yield "θ0", "- **Starting point θ0:**", [cell(record.base_model), *commit]
    yield "the architecture", "- **Architecture:**", [cell(record.architecture or "not recorded"), record.library]
    yield "the licence", "Licence of the weights:", [cell(record.license or "not recorded")]
    titles = {task: cell(record.title(task)) for task in _ROWS if getattr(record, task) is not None}
    yield "the data", "An image classifier for **", [titles["primary"], titles["harmful"]]
    for task, title in titles.items():
        data = getattr(record, task)
        about = [code(data.revision)] if data.revision else []
        yield f"the {task} data", f"| {_ROWS[task]} | ", [title, *about, cell(data.license or "not recorded")]


def _plain(text: str) -> str:
    """Without what keeps names from being markup: an earlier template escaped more of it, or less."""
    return text.replace("\\", "").replace("<!-- -->", "")
