"""Samples of any form → one batch of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from transformers.utils import logging

from hf_immunize.errors import InputError

__all__ = ["LABEL_KEYS", "collate_images", "label_of", "on_device"]

logger = logging.get_logger(__name__)

#: Keys of a sample under which labels are read: the first that is there, as in transformers, in whatever order they
#: stand.
LABEL_KEYS = ("labels", "label")


def collate_images(samples: list[Any]) -> dict[str, torch.Tensor]:
    """Stacks samples: mappings with ``pixel_values`` (and ``labels``), or pairs of image and label.

    Samples of cached ``activations`` in place of ``pixel_values`` are stacked likewise, and so are further tensors of
    one shape, which may be inputs of the model; ragged ones cannot be, and are left aside with a word.

    Raises:
        ValueError: images of different shapes, or samples without images.
    """
    rows = [_as_mapping(sample) for sample in samples]
    source = "activations" if "activations" in rows[0] else "pixel_values"
    if isinstance(rows[0][source], Image.Image):
        raise InputError(
            "A sample holds a picture where numbers were expected. Give the data set a transform to tensors "
            "(torchvision: transform=…), or pass a datasets.Dataset of pictures and processing_class=image_processor."
        )
    images = [torch.as_tensor(row[source]) for row in rows]
    if not images[0].is_floating_point():
        raise InputError(
            f"A sample's {source} are whole numbers ({str(images[0].dtype).removeprefix('torch.')}), which no image "
            "processor has prepared. Scale and normalise them as the model reads them (a transform of the data set), "
            "or pass a datasets.Dataset of pictures and processing_class=image_processor."
        )
    # As NumPy gives them; every model here reads float32.
    images = [image.float() if image.dtype == torch.float64 else image for image in images]
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:
        raise InputError(f"Images of different shapes in one batch: {sorted(shapes)}. Resize them to one size.")
    batch = {source: torch.stack(images)}
    label_key = next((key for key in LABEL_KEYS if key in rows[0]), None)
    if label_key is not None:
        batch["labels"] = torch.as_tensor([_whole(row[label_key]) for row in rows])
    for key, first in rows[0].items():
        if key in (source, *LABEL_KEYS) or not isinstance(first, torch.Tensor):
            continue
        further: list[Any] = [row.get(key) for row in rows]
        if all(isinstance(one, torch.Tensor) and one.shape == first.shape for one in further):
            batch[key] = torch.stack(further)
        else:
            logger.warning_once(f"{key!r} differs in shape from sample to sample, as no input does: left it aside.")
    return batch


def label_of(sample: Any) -> Any:
    """The label of a sample, a mapping or a pair, as it stands there; None where it has none."""
    if isinstance(sample, (tuple, list)) and len(sample) == 2:
        return sample[1]
    return next((sample[key] for key in LABEL_KEYS if key in sample), None) if hasattr(sample, "keys") else None


def on_device(batch: Mapping[str, Any], device: torch.device | str) -> dict[str, torch.Tensor]:
    """The tensors of a batch on a device; what else it holds is left out."""
    return {name: value.to(device) for name, value in batch.items() if isinstance(value, torch.Tensor)}


def _whole(label: Any) -> int:
    try:
        number = int(label)
        if number != label:
            raise ValueError
        return number
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"A label must be one whole number, got {str(label)[:60]!r}. Number the classes, or leave the labels out."
        ) from error


def _as_mapping(sample: Any) -> dict[str, Any]:
    if isinstance(sample, (tuple, list)) and len(sample) == 2:
        return {"pixel_values": sample[0], "labels": sample[1]}
    if hasattr(sample, "keys") and ("pixel_values" in sample or "activations" in sample):
        return dict(sample)
    found = ", ".join(sample) if hasattr(sample, "keys") else type(sample).__name__
    raise InputError(
        f"A sample must hold 'pixel_values' (and 'labels'), or be a pair (image, label); got {found}. Raw images "
        "are prepared in rows of `datasets`: datasets.Dataset.from_list(rows), with processing_class=image_processor."
    )
