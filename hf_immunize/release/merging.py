"""Cards into one: what was generated, and what an author wrote around it, here and on the Hub."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from huggingface_hub import ModelCard, ModelCardData

from hf_immunize.errors import InputError
from hf_immunize.release.card_metadata import card_tags

__all__ = [
    "CARD_NAME",
    "edited_inside",
    "generated_text",
    "listed",
    "marked",
    "merge_cards",
    "read_card",
    "reconcile",
    "without_generated",
]

CARD_NAME = "README.md"
#: Characters: the Hub shows no longer card.
_LONGEST = 2_000_000
_START = "<!-- hf-immunize: start {digest} (rewritten at the next save or push; write above or below these marks) -->"
_END = "<!-- hf-immunize: end -->"
_BLOCK = re.compile(
    r"<!-- hf-immunize: start (?P<digest>[0-9a-f]{12}) [^\n]*-->\n(?P<text>.*?)\n<!-- hf-immunize: end -->", re.DOTALL
)
#: Metadata that follow from the record; anything else in an existing card belongs to its author.
_GENERATED_KEYS = (
    "base_model",
    "base_model_relation",
    "datasets",
    "library_name",
    "pipeline_tag",
    "model-index",
    "metrics",
)


def marked(body: str) -> str:
    """The generated part of a card between its marks."""
    return f"{_START.format(digest=_digest(body))}\n{body}\n{_END}"


def read_card(path: Path) -> str:
    """The text of a card.

    Raises:
        InputError: no text in UTF-8, or longer than any card.
    """
    try:
        text = path.read_text(encoding="utf-8") if path.stat().st_size <= 4 * _LONGEST else None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8 ({error}). Save it as UTF-8.") from error
    if text is None or len(text) > _LONGEST:
        raise InputError(f"{path} is longer than {_LONGEST:,} characters, more than the Hub shows. Shorten it.")
    return text


def without_generated(card: str, record: Mapping[str, Any]) -> str:
    """A card without the licence and the tags that its record generated: what is left of them is its author's.

    Args:
        card: its text.
        record: the plain values of the record that it was written from.

    Raises:
        InputError: metadata that cannot be read.
    """
    old = _parsed(card)
    data = old.data.to_dict()
    if data.get("license") == record.get("license"):
        data.pop("license", None)
    generated = card_tags(str(record.get("library")))
    tags = [one for one in listed(data.pop("tags", None)) if one not in generated]
    data |= {"tags": tags} if tags else {}
    return f"---\n{ModelCardData(**data, ignore_metadata_errors=True).to_yaml()}\n---\n{old.text}"


def merge_cards(existing: str, generated: ModelCard) -> ModelCard:
    """The generated card with the text and the metadata that the author of ``existing`` wrote around it.

    Where both name a licence, the author's stands: what a record says fills gaps.

    Raises:
        InputError: metadata that cannot be read, or marks that do not belong together.
    """
    match = _BLOCK.search(generated.text)
    if match is None:
        raise InputError("The generated card has lost its marks; make it with create_model_card.")
    old = _parsed(existing)
    data = {key: value for key, value in old.data.to_dict().items() if key not in _GENERATED_KEYS}
    new = generated.data.to_dict()
    tags = [*new.pop("tags", []), *listed(data.pop("tags", None))]
    data = new | data | {"tags": list(dict.fromkeys(tags))}
    before, after = _around(old.text)
    text = f"{before}{match.group(0)}{after}" if before or _BLOCK.search(old.text) else _below(match.group(0), after)
    return ModelCard(f"---\n{ModelCardData(**data, ignore_metadata_errors=True).to_yaml()}\n---\n{text}")


def reconcile(local: str, remote: str, pushed: str | None) -> str:
    """One card from that of the folder and that on the Hub; its generated part is the folder's.

    Args:
        local: of the folder.
        remote: on the Hub, perhaps edited there.
        pushed: what this folder pushed last, which both come from; where that is not known, no word of either is
            given up: what stands in one alone is kept.

    Raises:
        InputError: the same words were changed in both, so that only a person can choose.
    """
    ours, theirs = _parsed(local), _parsed(remote)
    base = _parsed(pushed) if pushed is not None else None
    data: dict[str, Any] = dict(ours.data.to_dict())
    for key, value in theirs.data.to_dict().items():
        known = base.data.to_dict().get(key) if base is not None else None
        if key == "tags":
            gone = set(listed(known)) - set(listed(value))
            added = [one for one in listed(value) if one not in listed(known)]
            kept = [one for one in listed(data.get(key)) if one not in gone]
            data[key] = list(dict.fromkeys([*kept, *added]))
        elif key not in _GENERATED_KEYS and (base is None or data.get(key) == known):
            data[key] = value
        elif key not in _GENERATED_KEYS and value not in (known, data.get(key)):
            raise InputError(_both_changed(f"{key}: {value}"))
    if base is not None:
        for key in set(base.data.to_dict()) - set(theirs.data.to_dict()) - set(_GENERATED_KEYS):
            data.pop(key, None)
    block = _BLOCK.search(ours.text)
    if block is None:
        raise InputError("The card of the folder has lost its marks; make it with create_model_card.")
    parts = []
    for one, other, last in zip(
        _around(ours.text), _around(theirs.text), _around(base.text) if base else (None, None), strict=True
    ):
        merged = _merged(_paragraphs(one), _paragraphs(other), None if last is None else _paragraphs(last))
        parts.append("\n\n".join(merged))
    text = "\n\n".join(part for part in (parts[0], block.group(0), parts[1]) if part)
    return f"---\n{ModelCardData(**data, ignore_metadata_errors=True).to_yaml()}\n---\n\n{text}\n"


def generated_text(card: str) -> str | None:
    """The generated part of a card; None where there is none."""
    match = _BLOCK.search(card)
    return None if match is None else match.group("text")


def edited_inside(card: str) -> bool:
    """Whether somebody changed the generated part by hand."""
    match = _BLOCK.search(card)
    return match is not None and _digest(match.group("text")) != match.group("digest")


def _parsed(card: str) -> ModelCard:
    try:
        found = ModelCard(card, ignore_metadata_errors=True)
    except (ValueError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise InputError(
            f"The metadata of an existing {CARD_NAME} cannot be read ({_first_line(error)}). Repair the YAML between "
            "its --- lines."
        ) from error
    starts, ends = found.text.count("<!-- hf-immunize: start"), found.text.count(_END)
    if starts > 1 or starts != ends or (starts and _BLOCK.search(found.text) is None):
        raise InputError(
            f"The marks of hf-immunize in an existing {CARD_NAME} do not belong together ({starts} start, {ends} end). "
            "Take the generated part out, and it is written again."
        )
    return found


def _around(text: str) -> tuple[str, str]:
    """What an author wrote before and after the generated part; a card without marks is all theirs."""
    match = _BLOCK.search(text)
    return (text[: match.start()], text[match.end() :]) if match else ("", text)


def _below(block: str, text: str) -> str:
    return f"\n{block}\n\n{text.strip()}".rstrip() + "\n"


def _paragraphs(text: str) -> list[str]:
    return [one for one in re.split(r"\n[ \t]*\n", text.strip()) if one.strip()]


def _merged(ours: Sequence[str], theirs: Sequence[str], base: Sequence[str] | None) -> list[str]:
    """Three-way merge by paragraphs; without a base the union, each paragraph where its own text has it."""
    if base is None:
        known = set(theirs)
        return [*theirs, *(one for one in ours if one not in known)]
    mine, other = _edits(base, ours), _edits(base, theirs)
    for one in mine:
        for two in other:
            overlaps = one.start < two.end and two.start < one.end
            inside = two.start < one.start < two.end or one.start < two.start < one.end
            if one != two and (overlaps or inside):
                raise InputError(_both_changed((one.words or two.words or tuple(base[one.start : one.end]))[0]))
    result: list[str] = []
    at = 0
    # What is new at a place comes before what changes there; the Hub's first.
    for edit in sorted(dict.fromkeys([*other, *mine]), key=lambda one: (one.start, one.end)):
        result += base[at : edit.start]
        new = edit.start == edit.end
        result += [word for word in edit.words if not (new and word in result[-len(edit.words) :])]
        at = max(at, edit.end)
    return [*result, *base[at:]]


class _Edit(NamedTuple):
    """Paragraphs ``start`` to ``end`` of the base that became ``words``."""

    start: int
    end: int
    words: tuple[str, ...]


def _edits(base: Sequence[str], changed: Sequence[str]) -> list[_Edit]:
    found = []
    for kind, i, j, k, m in difflib.SequenceMatcher(None, base, changed, autojunk=False).get_opcodes():
        if kind == "replace" and j - i == m - k:
            found += [_Edit(i + n, i + n + 1, (changed[k + n],)) for n in range(j - i)]
        elif kind != "equal":
            found.append(_Edit(i, j, tuple(changed[k:m])))
    return found


def _both_changed(words: str) -> str:
    return (
        f"{CARD_NAME} was changed both in the folder and on the Hub since the last push, around {words[:60]!r}. Take "
        "the words of the Hub into the folder's card where you want them, and push again."
    )


def listed(value: Any) -> list[Any]:
    """A value of a card's metadata as a list: one word may stand for a list of it."""
    return [] if value is None else value if isinstance(value, list) else [value]


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _digest(text: str) -> str:
    return hashlib.sha256(text.strip().encode()).hexdigest()[:12]
