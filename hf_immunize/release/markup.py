"""Text of others made harmless for the place in a card where it stands."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

__all__ = ["cell", "code", "fenced", "join", "python_string"]

_MARKUP = re.compile(r"[\\`*\[\]|~$]|(?<!\w)_|_(?!\w)|^(?:#|>|[+-](?=\s)|\d+[.)](?=\s))|&(?=#?\w+;)|<")
#: What viewers turn into links without any markup: addresses of the web and of mail.
_LINKED = re.compile(r"(?i)\b(https?|ftp|mailto|xmpp)(?=:)|\bwww(?=\.)|(?<=\w)(?=@\w)")
#: Zero width, and shown by no viewer.
_BREAK = "<!-- -->"
#: Control characters, and those that turn the direction of what follows.
_INVISIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff]")


def cell(value: Any) -> str:
    """Text on one line, in a table too, that is shown as it is: no link, picture, emphasis, heading or HTML."""
    text = _MARKUP.sub(_escaped, _line(value))
    return _LINKED.sub(lambda match: match.group(0) + _BREAK, text)


def _escaped(match: re.Match[str]) -> str:
    found = match.group(0)
    return {"<": "&lt;", "&": "&amp;"}.get(found) or f"{found[:-1]}\\{found[-1]}"


def _line(value: Any) -> str:
    return " ".join(_visible(str(value)).split())


def _visible(text: str) -> str:
    # Nothing that is shown may be taken for the marks of the generated part.
    return _INVISIBLE.sub("", text).replace("<!-- hf-immunize", "<! -- hf-immunize")


def code(value: Any) -> str:
    """Text as code within a line, in a table too."""
    text = _line(value).replace("|", "\\|")
    marks = "`" * (1 + _longest_run(text))
    padding = " " if text.startswith("`") or text.endswith("`") or not text else ""
    return f"{marks}{padding}{text}{padding}{marks}"


def fenced(text: str, language: str) -> str:
    """A block of code that no text in it can end."""
    text = _visible(text)
    marks = "`" * max(3, 1 + _longest_run(text))
    return f"{marks}{language}\n{text}\n{marks}"


def _longest_run(text: str) -> int:
    return max(map(len, re.findall(r"`+", text)), default=0)


def python_string(text: str) -> str:
    """Text as a literal of Python."""
    return json.dumps(_visible(text), ensure_ascii=False)


def join(values: Sequence[Any], limit: int = 12) -> str:
    """The first of some names, each made harmless, and how many there are."""
    shown = ", ".join(cell(value) for value in values[:limit])
    return f"{shown}, … ({len(values)} in all)" if len(values) > limit else shown
