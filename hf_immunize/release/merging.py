"""Two cards into one: what was generated, and what an author wrote around it."""

from __future__ import annotations

import hashlib
import re

import yaml
from huggingface_hub import ModelCard, ModelCardData

from hf_immunize.errors import InputError

__all__ = ["CARD_NAME", "author_text", "edited_inside", "generated_text", "marked", "merge_cards"]

CARD_NAME = "README.md"
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


def merge_cards(existing: str, generated: ModelCard) -> ModelCard:
    """The generated card with the text and the metadata that the author of ``existing`` wrote around it."""
    match = _BLOCK.search(generated.text)
    if match is None:
        raise InputError("The generated card has lost its marks; make it with create_model_card.")
    try:
        old = ModelCard(existing, ignore_metadata_errors=True)
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(
            f"The metadata of the existing {CARD_NAME} cannot be read ({error}). Repair the YAML between its --- lines."
        ) from error
    data = {key: value for key, value in old.data.to_dict().items() if key not in _GENERATED_KEYS}
    new = generated.data.to_dict()
    tags = [*new.pop("tags", []), *(data.pop("tags", None) or [])]
    data |= new | {"tags": list(dict.fromkeys(tags))}
    old_block = _BLOCK.search(old.text)
    if old_block is None:
        text = f"\n{match.group(0)}\n\n{old.text.strip()}".rstrip() + "\n"
    else:
        text = old.text[: old_block.start()] + match.group(0) + old.text[old_block.end() :]
    card = ModelCard(f"---\n{ModelCardData(**data, ignore_metadata_errors=True).to_yaml()}\n---\n{text}")
    return card


def author_text(card: str) -> tuple[str, str]:
    """What an author wrote before and after the generated part of a card; a card without marks is all theirs."""
    text = ModelCard(card, ignore_metadata_errors=True).text
    match = _BLOCK.search(text)
    return (text[: match.start()], text[match.end() :]) if match else ("", text)


def generated_text(card: str) -> str | None:
    """The generated part of a card; None where there is none."""
    match = _BLOCK.search(card)
    return None if match is None else match.group("text")


def edited_inside(card: str) -> bool:
    """Whether somebody changed the generated part by hand."""
    match = _BLOCK.search(card)
    return match is not None and _digest(match.group("text")) != match.group("digest")


def _digest(text: str) -> str:
    return hashlib.sha256(text.strip().encode()).hexdigest()[:12]
