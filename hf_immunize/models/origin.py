"""Whether a module's weights are those of a commit on the Hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME

from hf_immunize.data.random_numbers import undisturbed_random_numbers

__all__ = ["commit_of_weights"]


def commit_of_weights(model: nn.Module, name: str, weights: Mapping[str, torch.Tensor]) -> str | None:
    """The commit of the Hub's ``name`` that has these weights.

    A module knows the name that it was loaded by, and not what happened to it since; so the files that it was loaded
    from are read again, out of the cache, and compared. Nothing is downloaded.

    Args:
        model: of transformers or timm.
        name: Hub id.
        weights: all parameters and buffers, by name.

    Returns:
        the commit hash; None for other weights, or where there are no such files.
    """
    try:
        found = try_to_load_from_cache(name, CONFIG_NAME)
    except HFValidationError:
        return None
    if not isinstance(found, str):
        return None
    folder = Path(found).parent
    try:
        stored = _stored(model, folder)
    except (OSError, SafetensorError, RuntimeError, ValueError):
        # No weights there, or of other shapes than the model's.
        return None
    same = stored.keys() == weights.keys() and all(
        torch.equal(one.to(weights[key].dtype), weights[key].detach().cpu()) for key, one in stored.items()
    )
    return folder.name if same else None


@undisturbed_random_numbers()
def _stored(model: nn.Module, folder: Path) -> Mapping[str, torch.Tensor]:
    if isinstance(model, PreTrainedModel):
        # Names of tensors in the file are not always the model's.
        return type(model).from_pretrained(folder, dtype=torch.float32).state_dict()
    return load_file(folder / SAFE_WEIGHTS_NAME)
