"""Labels: whole numbers, inside the head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hf_immunize.errors import InputError

__all__ = ["check_labels", "whole_numbers"]


def whole_numbers(labels: Sequence[Any] | torch.Tensor, name: str) -> torch.Tensor:
    """Labels as a tensor; ValueError where they are no whole numbers, one an image."""
    try:
        values = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):
        odd = next((one for one in labels if not isinstance(one, int)), labels)
        raise InputError(
            f"The labels of the {name} data must be whole numbers, one an image, got {odd!r}. Name another column "
            "(label_column), or number the classes: dataset.class_encode_column('label')."
        ) from None
    if values.is_floating_point() or values.ndim != 1:
        raise InputError(f"The labels of the {name} data must be whole numbers, one an image, got {values.dtype}.")
    return values


def check_labels(labels: Sequence[Any] | torch.Tensor, n_classes: int, name: str) -> None:
    """Raises ValueError where a label lies outside 0 … n_classes − 1 (or is not a whole number)."""
    values = whole_numbers(labels, name)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= n_classes:
        raise InputError(
            f"The {name} labels run from {low} to {high}, but the model's head has {n_classes} classes (0 to "
            f"{n_classes - 1}). Load the model with num_labels={high + 1}, or map the labels."
        )
