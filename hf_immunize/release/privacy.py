"""What must not be published: tokens, and where things lie on a machine."""

from __future__ import annotations

import re
import shlex
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

__all__ = ["base_names", "holds_token", "places_in", "redact_tokens", "without_paths", "without_places"]

#: Hub tokens, those of organisations of old among them, and the options that carry them on a command line.
_TOKEN = re.compile(r"(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{16,}|api_org_[A-Za-z0-9]{16,})")
_TOKEN_BYTES = re.compile(rb"(?:hf|api_org)_[A-Za-z0-9]{20,}")
_TOKEN_STARTS = (b"hf_", b"api_org_")
_TOKEN_OPTION = re.compile(r"(--?(?:hub[_-])?token[= ]+|HF_TOKEN=)(?!<)\S+")
_PATH = re.compile(r"(?<![\w/:.<])(?:~?/(?:[^/\s'\"(),;]+/)+|[A-Za-z]:\\(?:[^\\\s'\"]+\\)*)(?=[^/\s])")
#: The same between quotes, where it may hold blanks.
_QUOTED_PATH = re.compile(
    r"""(?<!\w)(?P<quote>['"])(?P<path>(?:~\w*/|/|[A-Za-z]:\\|\\\\)(?:(?!(?P=quote)).)+)(?P=quote)"""
)
#: Keys of JSON whose values name files and folders.
_PLACE = re.compile(r"(?:name_or_path|(?:^|_)(?:file|path|dir|folder))$")
_CHUNK = 2**20
#: Longer than any token, so that none is missed between two chunks.
_OVERLAP = 512
#: Of text that a picture holds compressed.
_MOST_INFLATED = 2**20


def redact_tokens(value: Any) -> Any:
    """The same value with every Hub token in its strings replaced."""
    if isinstance(value, str):
        return _TOKEN.sub("<token>", _TOKEN_OPTION.sub(r"\1<token>", value))
    if isinstance(value, dict):
        return {key: redact_tokens(one) for key, one in value.items()}
    if isinstance(value, list):
        return [redact_tokens(one) for one in value]
    return value


def base_names(command: str, hub: Collection[str] = ()) -> str:
    """A command line without tokens, and with the names of folders and files in place of the paths to them.

    Args:
        command: as it was given.
        hub: names on the Hub that look like paths, ``user/name/subfolder``.
    """
    command = redact_tokens(command)
    try:
        words = shlex.split(command)
    except ValueError:
        return without_paths(command)
    short = [word if word.rpartition("=")[2].partition("@")[0] in hub else _base_name(word) for word in words]
    return command if short == words else shlex.join(short)


def without_paths(value: Any) -> Any:
    """The same value with the last part of every absolute path in its strings in place of the path.

    A path that holds blanks is known to its end where it stands in quotes.
    """
    if isinstance(value, str):
        return _PATH.sub("", _QUOTED_PATH.sub(_last_part, value))
    if isinstance(value, dict):
        return {key: without_paths(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_paths(one) for one in value]
    return value


def _last_part(quoted: re.Match[str]) -> str:
    path = quoted["path"]
    name = PurePosixPath(path).name if path.startswith(("/", "~")) else PureWindowsPath(path).name
    return f"{quoted['quote']}{name or path}{quoted['quote']}"


def _base_name(word: str) -> str:
    option, mark, value = word.partition("=") if re.match(r"-|[A-Z_]+=", word) else ("", "", word)
    if re.match(r"[A-Za-z]:[\\/]", value):
        value = PureWindowsPath(value).name
    elif value.startswith(("/", "~", "./", "../", "file:")) or (value.count("/") > 1 and "://" not in value):
        value = PurePosixPath(value).name or value.strip("/") or "."
    return f"{option}{mark}{value}"


def holds_token(path: Path, secret: str | None = None) -> bool:
    """Whether any byte of a file belongs to a Hub token, or to ``secret``; text inside a PNG is read too."""
    before = b""
    own = secret.encode() if secret else None
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            data = before + chunk
            if _token_in(data, own):
                return True
            before = data[-_OVERLAP:]
    return path.suffix.lower() == ".png" and any(_token_in(text, own) for text in _inflated(path))


def _token_in(data: bytes, secret: bytes | None) -> bool:
    # Without its zeros, text of 16 bits a letter is text of 8.
    for text in (data, data.replace(b"\0", b"")) if data.count(b"\0") < len(data) * 0.9 else (data,):
        if (secret and secret in text) or (any(one in text for one in _TOKEN_STARTS) and _TOKEN_BYTES.search(text)):
            return True
    return False


def _inflated(path: Path) -> Iterator[bytes]:
    """What the text chunks of a PNG hold compressed, a megabyte of each at most."""
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = int.from_bytes(head[:4], "big"), head[4:]
            if kind not in (b"zTXt", b"iTXt", b"iCCP"):
                file.seek(length + 4, 1)
                continue
            content = file.read(min(length, 64 * _CHUNK))
            file.seek(length - len(content) + 4, 1)
            for start in (at for at, byte in enumerate(content[:300]) if byte == 0x78):
                try:
                    yield zlib.decompressobj().decompress(content[start:], _MOST_INFLATED)
                except zlib.error:
                    continue


def places_in(values: Any) -> list[str]:
    """Keys of JSON values that name a file or folder by its place on a machine: ``_name_or_path``, ``file``, …"""
    if isinstance(values, list):
        return [key for one in values for key in places_in(one)]
    if not isinstance(values, dict):
        return []
    found = [key for key, value in values.items() if _PLACE.search(key) and isinstance(value, str) and _is_place(value)]
    return found + [key for one in values.values() for key in places_in(one)]


def without_places(values: Any) -> Any:
    """The same JSON values with base names in the place of the paths that :func:`places_in` finds."""
    if isinstance(values, list):
        return [without_places(one) for one in values]
    if not isinstance(values, dict):
        return values
    return {
        key: _base_name(one) if _PLACE.search(key) and isinstance(one, str) and _is_place(one) else without_places(one)
        for key, one in values.items()
    }


def _is_place(value: str) -> bool:
    return _base_name(value) != value
