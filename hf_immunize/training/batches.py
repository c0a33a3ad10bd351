"""Two streams' batches as one forward pass, over one process or several."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from hf_immunize.errors import InputError
from hf_immunize.models.forward import ACTIVATIONS

__all__ = ["joined", "over_processes"]


def joined(primary: dict[str, Any], harmful: dict[str, Any]) -> dict[str, Any]:
    """Both batches, of images (n, C, H, W) or of activations, as one; labels stay out.

    Raises:
        InputError: images of different shapes.
    """
    source = ACTIVATIONS if ACTIVATIONS in primary else "pixel_values"
    first, second = primary[source], harmful[source]
    if first.shape[1:] != second.shape[1:]:
        raise InputError(
            f"Primary images have shape {tuple(first.shape[1:])}, harmful ones {tuple(second.shape[1:])}. "
            "Use one image processor for both."
        )
    shared = [key for key in primary if key != "labels" and key in harmful]
    return {key: torch.cat([primary[key], harmful[key]]) for key in shared}


def over_processes(rows: torch.Tensor) -> torch.Tensor:
    """The rows of all processes, with a gradient for this one's: the Gram is then the whole batch's, exactly."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows
    gathered = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, rows.detach().contiguous())
    gathered[dist.get_rank()] = rows
    return torch.cat(gathered)
