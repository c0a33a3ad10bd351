"""Text of others made harmless for the place in a card where it stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["cell", "join"]


def cell(value: Any) -> str:
    """Text that cannot break out of its cell or start markup of its own."""
    text = " ".join(str(value).split())
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


def join(values: Sequence[Any], limit: int = 12) -> str:
    shown = ", ".join(cell(value) for value in values[:limit])
    return f"{shown}, … ({len(values)} in all)" if len(values) > limit else shown
