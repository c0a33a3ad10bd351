"""Which column holds the pictures and which the labels: as named, else by usual name and type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from datasets import ClassLabel, Dataset, Features, Image, Value

from hf_immunize.data.labels import can_be_classes
from hf_immunize.errors import InputError, did_you_mean

__all__ = ["Columns", "LabelUse", "choose_columns", "label_column_of"]

#: What labels are for: ``"needed"``, ``"optional"`` (taken where they can be), ``"unused"`` (not read at all).
LabelUse = Literal["needed", "optional", "unused"]

_IMAGE_NAMES = ("image", "img", "images", "picture", "pixel_values")
#: What a column of labels is called where others stand beside it: its name says what it is, whatever its type.
_BY_NAME = ("label", "labels")
_LABEL_NAMES = (*_BY_NAME, "fine_label", "class", "target", "cls")


@dataclass(frozen=True)
class Columns:
    """Names of the columns, and a sentence for each that was chosen among several."""

    image: str
    label: str | None
    notes: tuple[str, ...] = ()


def choose_columns(
    data: Dataset,
    image_column: str | None = None,
    label_column: str | None = None,
    *,
    labels: LabelUse = "needed",
) -> Columns:
    """The image and the label column: as named, else the candidate with the most usual name.

    A candidate is a column of the right type (``Image``; ``ClassLabel``, or whole numbers under a usual name), and one
    called ``label`` or ``labels`` whatever its type, where what it holds can be classes; where there is none, any
    column of a usual name. With ``labels="unused"`` no label column is taken that was not named.

    Raises:
        ValueError: a named column that is missing, or none to be found.
    """
    features = data.features
    for given in (image_column, label_column):
        if given is not None and given not in features:
            hint = did_you_mean(given, features)
            raise InputError(f"There is no column {given!r}; the columns are {', '.join(features)}.{hint}")
    notes: list[str] = []
    image = image_column or _choose(_picture_columns(features), _IMAGE_NAMES, "pictures", "image_column", notes)
    if image is None:
        raise InputError(
            f"The data set has no column of images; its columns are {', '.join(features)}. Name it (image_column), or "
            "cast it: dataset.cast_column('path', datasets.Image())."
        )
    if labels == "unused" or label_column is not None:
        return Columns(image, label_column, tuple(notes))
    label = label_column_of(features, image, notes, data)
    if label is None and labels == "needed":
        raise InputError(
            f"The data set has no column of labels; its columns are {', '.join(features)}. Name it (label_column)."
        )
    return Columns(image, label, tuple(notes))


def label_column_of(
    features: Mapping[str, Any], but: str | None = None, notes: list[str] | None = None, data: Any = None
) -> str | None:
    """The label column by type and usual name, of any column but one; None where there is no candidate.

    Args:
        features: types of the columns.
        but: the column of pictures.
        notes: gets a sentence where several could be meant.
        data: the rows, whose values tell whether a column of words is one of classes; their type alone does otherwise.
    """
    found, passed = _label_columns({key: kind for key, kind in features.items() if key != but}, data)
    notes = [] if notes is None else notes
    chosen = _choose(found, _LABEL_NAMES, "labels", "label_column", notes)
    notes += [
        f"took the column {chosen!r} for the labels, since {name!r} holds no classes (label_column)"
        for name in passed
        if name != chosen and chosen not in _BY_NAME
    ]
    return chosen


def _picture_columns(features: Features) -> list[str]:
    found = [key for key, kind in features.items() if isinstance(kind, Image)]
    # What pandas writes of a column of pictures: their bytes and paths, without saying that they are pictures.
    found = found or [key for key, kind in features.items() if isinstance(kind, dict) and {"bytes", "path"} <= {*kind}]
    return found or [key for key in _IMAGE_NAMES if key in features]


def _label_columns(features: Mapping[str, Any], data: Any) -> tuple[list[str], list[str]]:
    """Candidates, and columns that are called as labels are and hold none."""
    named = [key for key in _LABEL_NAMES if key in features]
    # Numbers in a column of a usual name are labels as well as any; words and lists there may be anything.
    found = [key for key, kind in features.items() if isinstance(kind, ClassLabel)]
    whole = ("int", "uint")
    found += [key for key in named if key not in found and getattr(features[key], "dtype", "").startswith(whole)]
    if not found:
        return named, []
    others = [key for key in _BY_NAME if key in features and key not in found]
    said = [key for key in others if _may_be_classes(features[key], key, data)]
    return found + said, [key for key in others if key not in said]


def _may_be_classes(kind: Any, column: str, data: Any) -> bool:
    if isinstance(data, Dataset):
        return can_be_classes(data, column)
    return isinstance(kind, Value) and kind.dtype.startswith(("bool", "float", "string", "large_string"))


def _choose(found: list[str], usual: tuple[str, ...], what: str, argument: str, notes: list[str]) -> str | None:
    chosen = next((name for name in usual if name in found), found[0] if found else None)
    if len(found) > 1:
        others = ", ".join(repr(key) for key in found if key != chosen)
        notes.append(f"took the column {chosen!r} for the {what}; {others} could be meant too ({argument})")
    return chosen
