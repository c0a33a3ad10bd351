"""What no attack is made on: data without labels or classes, weights and features that are not finite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from hf_immunize.data.collate import collate_images
from hf_immunize.data.labels import check_labels
from hf_immunize.data.streams import first_samples
from hf_immunize.errors import InputError
from hf_immunize.models.extraction import MapStyle
from hf_immunize.models.head import find_head

__all__ = ["check_classes", "check_finite", "check_labelled", "check_primary", "check_weights"]

#: Numbers up to the largest label for each class that occurs, and how many are no matter.
_SPARSE, _MOST_UNUSED = 20, 2_000


def check_labelled(data: MapStyle, name: str) -> None:
    """Raises InputError where data have no rows, or their first row no label."""
    if len(data) == 0:
        raise InputError(f"The {name} data are empty. Check the split and its filters.")
    if "labels" not in collate_images([data[0]]):
        raise InputError(
            f"The {name} images have no labels. Training needs none, but an attacker fits the harmful task and does: "
            "name the column of labels, or add one."
        )


def check_primary(models: Iterable[nn.Module], primary: MapStyle) -> None:
    """Raises InputError for labels outside the models' own heads: an attacker trains these on the primary labels."""
    check_labelled(primary, "primary")
    few = collate_images(first_samples(primary, 2))["pixel_values"]
    labels = [int(primary[index]["labels"]) for index in range(len(primary))]
    for model in models:
        own = next(model.parameters())
        check_labels(labels, find_head(model, few.to(own.device, own.dtype)).n_classes, "primary")


def check_weights(name: str, model: nn.Module) -> None:
    """Raises InputError, with the first of them, where weights are not finite."""
    for parameter, value in model.named_parameters():
        if not torch.isfinite(value).all():
            raise InputError(
                f"{parameter} of the {name} model holds NaN or infinite values, so its features would too. Was its "
                "training stable, and its file read whole?"
            )


def check_classes(train: torch.Tensor, test: torch.Tensor) -> int:
    """How many classes labels (n,) and (m,) have; InputError for one alone, or for test classes of no training row."""
    known, asked = set(train.tolist()), set(test.tolist())
    if len(known) < 2:
        raise InputError(f"An attacker needs two classes or more to tell apart, the training rows have {len(known)}.")
    if min(known | asked) < 0:
        raise InputError("Labels must be counted from 0; a negative one was given.")
    if asked - known:
        raise InputError(
            f"The test rows have the classes {sorted(asked - known)}, of which the training rows have none. Split the "
            "same classes into both, and draw no fewer rows than there are classes (max_samples)."
        )
    if max(known) >= max(_MOST_UNUSED, _SPARSE * len(known)):
        raise InputError(
            f"The labels of the task to attack run to {max(known):,}, and {len(known)} classes occur: a head would "
            "have an output for each number between. Number the classes: dataset.class_encode_column('label')."
        )
    return max(known) + 1


def check_finite(name: str, rows: Mapping[str, torch.Tensor]) -> None:
    """Raises InputError, with their number, where features (n, d) of a split are not finite."""
    for split, features in rows.items():
        bad = int((~torch.isfinite(features)).any(1).sum())
        if bad:
            raise InputError(
                f"{bad} of {len(features)} {split} feature rows of the {name} model hold NaN or infinite values. Run "
                "it in float32 or float64."
            )
