"""Images as users name them → model inputs: Hub ids, folders of images, `save_to_disk` folders, parquet, data sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset, DatasetDict

from hf_immunize.data.sources import find_columns
from hf_immunize.errors import InputError

__all__ = ["ImageInputs", "as_inputs", "collate_images"]


class ImageInputs(torch.utils.data.Dataset):
    """A `datasets` data set of images, read as model inputs: ``{"pixel_values": (C, H, W), "labels": int}``.

    Args:
        data: with a column of images, and one of labels unless ``labels_needed`` is false.
        image_processor: of the model; called with a list of images and ``return_tensors="pt"``.
        image_column: found by type and name if not given.
        label_column: likewise.
        labels_needed: False for harmful data whose labels the objective does not use.
        cache: keep the processed images in memory. Only for processors without randomness.
    """

    def __init__(
        self,
        data: Dataset,
        image_processor: Any,
        image_column: str | None = None,
        label_column: str | None = None,
        *,
        labels_needed: bool = True,
        cache: bool = False,
    ) -> None:
        if image_processor is None:
            raise InputError("Raw images need an image processor. Pass processing_class=AutoImageProcessor.…")
        self.data, self.image_processor = data, image_processor
        self.image_column, self.label_column = find_columns(
            data, image_column, label_column, labels_needed=labels_needed
        )
        self._cache: dict[int, torch.Tensor] | None = {} if cache else None
        self._labels = None if self.label_column is None else list(data.with_format(None)[self.label_column])

    @property
    def column_names(self) -> list[str]:
        return ["pixel_values"] if self._labels is None else ["pixel_values", "labels"]

    @property
    def labels(self) -> list[Any] | None:
        """All labels, without decoding an image."""
        return self._labels

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([int(index)])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        indices = [int(index) for index in indices]
        known = self._cache if self._cache is not None else {}
        missing = [index for index in dict.fromkeys(indices) if index not in known]
        fresh = dict(zip(missing, self._process(missing), strict=True)) if missing else {}
        if self._cache is not None:
            self._cache.update(fresh)
        items = []
        for index in indices:
            item: dict[str, Any] = {"pixel_values": fresh[index] if index in fresh else known[index]}
            if self._labels is not None:
                item["labels"] = self._labels[index]
            items.append(item)
        return items

    def _process(self, indices: list[int]) -> torch.Tensor:
        images = self.data[indices][self.image_column]
        return self.image_processor([_as_image(image) for image in images], return_tensors="pt")["pixel_values"]


def as_inputs(data: Any, image_processor: Any, *, labels_needed: bool = True) -> Any:
    """Wraps a `datasets` data set of raw images; anything that already gives ``pixel_values`` stays as it is."""
    if isinstance(data, (DatasetDict, dict)):
        raise InputError(f"A data set with the splits {', '.join(data)} was given. Choose one: dataset['train'].")
    if isinstance(data, Dataset) and data.format["type"] != "custom" and "pixel_values" not in data.column_names:
        return ImageInputs(data, image_processor, labels_needed=labels_needed)
    return data


def collate_images(samples: list[Any]) -> dict[str, torch.Tensor]:
    """Stacks samples: mappings with ``pixel_values`` (and ``labels``), or pairs of image and label.

    Samples of cached ``activations`` in place of ``pixel_values`` are stacked likewise.

    Raises:
        ValueError: images of different shapes, or samples without images.
    """
    rows = [_as_mapping(sample) for sample in samples]
    source = "activations" if "activations" in rows[0] else "pixel_values"
    images = [torch.as_tensor(row[source]) for row in rows]
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:
        raise InputError(f"Images of different shapes in one batch: {sorted(shapes)}. Resize them to one size.")
    batch = {source: torch.stack(images)}
    for key in rows[0]:
        if key in ("labels", "label"):
            batch["labels"] = torch.as_tensor([int(row[key]) for row in rows])
        elif key != source and isinstance(rows[0][key], torch.Tensor):
            batch[key] = torch.stack([row[key] for row in rows])
    return batch


def _as_mapping(sample: Any) -> dict[str, Any]:
    if isinstance(sample, (tuple, list)) and len(sample) == 2:
        return {"pixel_values": sample[0], "labels": sample[1]}
    if hasattr(sample, "keys") and ("pixel_values" in sample or "activations" in sample):
        return dict(sample)
    found = ", ".join(sample) if hasattr(sample, "keys") else type(sample).__name__
    raise InputError(
        f"A sample must hold 'pixel_values' (and 'labels'), or be a pair (image, label); got {found}. For raw images "
        "pass processing_class=image_processor."
    )


def _as_image(image: Any) -> Any:
    # Palettes, alpha and 16-bit greys become plain RGB; a single channel stays one for the processor to judge.
    if hasattr(image, "mode") and image.mode not in ("RGB", "L"):
        return image.convert("RGB")
    return image
