"""Whether the features of a picture are its own: the same in every pass, and beside whatever other pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from hf_immunize.data.collate import on_device
from hf_immunize.data.random_numbers import undisturbed_random_numbers
from hf_immunize.errors import InputError
from hf_immunize.models.copies import copied
from hf_immunize.models.forward import as_weights_are, evaluating, unwrap
from hf_immunize.models.head import features_and_logits

__all__ = ["check_repeatable"]

#: Of the largest feature: far above what another size of a batch does to rounding.
TOLERANCE = 1e-3


def check_repeatable(model: nn.Module, inputs: torch.Tensor | Mapping[str, Any]) -> None:
    """Refuses a model that no measurement could repeat, whatever is asked of it.

    Args:
        model: a classifier; it stays as it is, and so do the caller's random numbers.
        inputs: two pictures or more.

    Raises:
        InputError: features in evaluation mode that are others in a second pass (masked autoencoders), or beside other
            pictures (BatchNorm without running statistics).
    """
    given = inputs if isinstance(inputs, Mapping) else {"pixel_values": inputs}
    kind = type(unwrap(model)).__name__
    again, alone = _differences(model, given)
    if again > TOLERANCE:
        raise InputError(
            f"{kind} gives other features for the same pictures in a second pass, in evaluation mode: it draws random "
            "numbers (masks, as masked autoencoders do), so that no figure could be repeated. Switch them off "
            "(config.mask_ratio = 0, say)."
        )
    # A deep network may make as much of rounding, which is another one in a batch of another size.
    if alone > TOLERANCE and _differences(copied(unwrap(model)).cpu().double(), given)[1] > TOLERANCE:
        raise InputError(
            f"{kind} gives other features for a picture beside other pictures, in evaluation mode: BatchNorm without "
            "running statistics (track_running_stats=False), as a rule. Figures would depend on the batch size. Give "
            "it running statistics, or another norm."
        )


def _differences(model: nn.Module, inputs: Mapping[str, Any]) -> tuple[float, float]:
    """Of a second pass, and of the first picture by itself: the largest, in units of the largest feature."""
    own = next(model.parameters())
    kept = on_device(inputs, own.device)
    if kept["pixel_values"].is_floating_point():
        kept["pixel_values"] = kept["pixel_values"].to(own.dtype)
    n = len(kept["pixel_values"])
    first = {
        name: one[:1] if isinstance(one, torch.Tensor) and one.ndim and len(one) == n else one
        for name, one in kept.items()
    }
    with torch.no_grad(), evaluating(model), as_weights_are(model), undisturbed_random_numbers():
        rows, again, alone = (features_and_logits(model, one)[0].double() for one in (kept, kept, first))
    unit = float(rows.abs().max().clamp_min(torch.finfo(torch.float64).tiny))
    return float((rows - again).abs().max()) / unit, float((rows[:1] - alone).abs().max()) / unit
