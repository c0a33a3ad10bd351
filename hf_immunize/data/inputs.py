"""Rows of any kind that a function was handed → model inputs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import pandas
from datasets import Dataset, IterableDataset
from datasets import Image as ImageFeature
from torch.utils.data import ConcatDataset, Subset

from hf_immunize.data.columns import LabelUse
from hf_immunize.data.images import ImageInputs
from hf_immunize.data.streams import StreamedInputs, drawn_rows, first_samples, is_stream
from hf_immunize.errors import InputError, InputTypeError

__all__ = ["as_inputs"]


def as_inputs(
    data: Any,
    image_processor: Callable[..., Any] | None,
    *,
    labels: LabelUse = "needed",
    n_channels: int | None = None,
    name: str = "",
    most: int | None = None,
) -> Any:
    """Wraps raw pictures, rows or a stream; what already gives ``pixel_values`` stays as it is.

    Args:
        data: rows of `datasets`, of pandas or as a list of mappings; a stream; parts of such (`Subset`,
            `ConcatDataset`); or model inputs of any kind.
        image_processor: for raw pictures.
        labels: as in :class:`hf_immunize.ImageInputs`.
        n_channels: likewise.
        name: of the data, for messages.
        most: draw so many rows of a stream into memory; None to leave it a stream.

    Raises:
        TypeError: a name in the place of a data set.
        ValueError: several splits in the place of one.
    """
    if isinstance(data, (str, os.PathLike)):
        raise InputTypeError(
            f"A data set was expected, got its name. Load it first: load_images({os.fspath(data)!r}, 'train')."
        )
    if isinstance(data, Mapping):
        called = f"{name} data set" if name else "data set"
        raise InputError(f"A {called} with the splits {', '.join(data)} was given. Choose one: dataset['train'].")
    if most is not None and is_stream(data):
        data = data.drawn(most) if isinstance(data, StreamedInputs) else drawn_rows(data, most)
    options: dict[str, Any] = {"labels": labels, "n_channels": n_channels, "name": name}
    if isinstance(data, Subset):
        whole = data.dataset
        if isinstance(whole, Dataset):
            # A list may count from the end, and `datasets` does not.
            return as_inputs(whole.select([range(len(whole))[one] for one in data.indices]), image_processor, **options)
        inner = as_inputs(whole, image_processor, **options)
        return data if inner is whole else Subset(inner, data.indices)
    if isinstance(data, ConcatDataset):
        parts = [as_inputs(one, image_processor, **options) for one in data.datasets]
        same = all(one is part for one, part in zip(data.datasets, parts, strict=True))
        return data if same else ConcatDataset(parts)
    if isinstance(data, pandas.DataFrame):
        data = data.to_dict("records")
    if isinstance(data, (list, tuple)) and data and isinstance(data[0], Mapping) and "pixel_values" not in data[0]:
        data = Dataset.from_list(list(data))
    if not isinstance(data, (Dataset, IterableDataset)) or _gives_pixel_values(data):
        return data
    kind = ImageInputs if isinstance(data, Dataset) else StreamedInputs
    return kind(data, image_processor, **options)


def _gives_pixel_values(data: Any) -> bool:
    if isinstance(data, IterableDataset) or data.format["type"] == "custom":
        first = first_samples(data, 1)
        found = first[0].get("pixel_values") if first else None
        # A column of pictures may have any name.
        return found is not None and not isinstance((data.features or {}).get("pixel_values"), ImageFeature)
    return "pixel_values" in data.column_names and not isinstance(data.features["pixel_values"], ImageFeature)
