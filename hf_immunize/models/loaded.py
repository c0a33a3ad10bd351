"""What loading a classifier gives: the model, its image processor, and where both came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hf_immunize.data.preprocessing import as_list, to_channels
from hf_immunize.errors import InputError

__all__ = ["LoadedModel"]


@dataclass
class LoadedModel:
    """A classifier with everything that a record says about where it came from.

    Attributes:
        model: ``…ForImageClassification`` of transformers, or a plain timm module; float32, on the CPU, in eval mode.
        image_processor: of transformers, or a :class:`TimmImageProcessor`; None where a folder holds none.
        name: the Hub id without its revision, with a subfolder behind it (``user/name/sub``), or the folder's name.
        revision: the commit hash on the Hub, None for a folder.
        library: ``"transformers"`` or ``"timm"``.
        architecture: class name or timm's model name.
        kind: ``"hub"`` or ``"local"``.
        new_head: the head was freshly initialised and has to be trained before the model means anything.
        n_channels: channels of the images that the model reads.
        license: as the checkpoint states it.
    """

    model: nn.Module
    image_processor: Callable[..., Any] | None
    name: str
    revision: str | None
    library: str
    architecture: str
    kind: str = "hub"
    new_head: bool = False
    n_channels: int = 3
    license: str | None = None

    def require_processor(self) -> Callable[..., Any]:
        """The image processor.

        Raises:
            InputError: there is none, so that images cannot be prepared.
        """
        if self.image_processor is None:
            raise InputError(
                f"{self.name} holds no image processor, so raw images cannot be prepared for it. Save one beside it: "
                "AutoImageProcessor.from_pretrained(…).save_pretrained(folder)."
            )
        return self.image_processor

    def preprocess(self, images: Any) -> torch.Tensor:
        """Images, one or a list, greyscale or colour, as pixel values of shape (n, C, H, W)."""
        processor = self.require_processor()
        batch = [to_channels(image, self.n_channels) for image in as_list(images)]
        return processor(batch, return_tensors="pt")["pixel_values"]
