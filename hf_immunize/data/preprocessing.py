"""Images in: any mode to the model's channels, and timm's own transform behind the call of an image processor."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import timm.data
import torch
from datasets import Image as ImageFeature
from PIL import Image
from torch import nn
from transformers import BatchFeature

from hf_immunize.data.decoding import open_picture, upper_8_bits
from hf_immunize.errors import InputError, InputTypeError

__all__ = ["PROCESSOR_NAME", "TimmImageProcessor", "as_list", "as_numbers", "channels_of", "in_mode", "to_channels"]

PROCESSOR_NAME = "preprocessor_config.json"
_MODES = {1: "L", 3: "RGB"}
# Modes that hold the same picture in wider numbers.
_WIDE = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
# Pillow reads 16-bit PGM (and, in older versions, PNG) as 32-bit numbers; the values still run to 65,535.
_WRITES_16_BITS_AS_I = ("PPM", "PNG")
# Modes that Pillow does not turn into both L and RGB in one step.
_WITHOUT_OWN_PATH = {
    "La": "LA",
    "RGBa": "RGBA",
    "PA": "RGBA",
    "LAB": "RGB",
    "HSV": "RGB",
    "CMYK": "RGB",
    "YCbCr": "RGB",
}


def to_channels(image: Any, n_channels: int = 3) -> Image.Image:
    """One picture as an upright 8-bit PIL image with the model's number of channels: the one way there is.

    Grey is repeated, colour becomes luminance, 16 bits become their upper 8, alpha is dropped.

    Args:
        image: anything that :func:`hf_immunize.data.decoding.open_picture` opens, of any mode.
        n_channels: 1 or 3.

    Raises:
        CorruptPictureError: a file that holds no whole picture (a ValueError).
        TypeError: no image.
        ValueError: numbers without a fixed range, a shape that is no image, another number of channels.
    """
    if n_channels not in _MODES:
        raise InputError(f"Images can be brought to 1 or 3 channels; the model wants {n_channels}.")
    image = open_picture(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in _WRITES_16_BITS_AS_I):
        # PIL clips 16-bit values at 255 when it converts them; keep the upper 8 bits instead.
        image = Image.fromarray(upper_8_bits(np.asarray(image, dtype=np.uint16)))
    elif image.mode in ("I", "F"):
        raise InputError(
            f"An image of mode {image.mode!r} (32-bit numbers) has no fixed range. Scale it to 0…255 and convert it "
            "with image.convert('L') first."
        )
    if image.mode in _WITHOUT_OWN_PATH:
        image = image.convert(_WITHOUT_OWN_PATH[image.mode])
    elif image.mode in ("P", "LA") and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == _MODES[n_channels] else image.convert(_MODES[n_channels])


def in_mode(picture: Any, kind: Any) -> Any:
    """A picture in the mode that its column is cast to (``Image(mode="L")``), where it is cast to one.

    Args:
        picture: as :func:`to_channels` takes it.
        kind: type of the column.

    Raises:
        InputError: Pillow does not turn the picture into that mode; else as :func:`to_channels`.
    """
    mode = kind.mode if isinstance(kind, ImageFeature) else None
    if mode is None or mode in _WIDE:
        return picture
    plain = next((channels for channels, name in _MODES.items() if name == mode), None)
    if plain is not None:
        return to_channels(picture, plain)
    image = open_picture(picture)
    try:
        return image if image.mode == mode else image.convert(mode)
    except ValueError as error:
        raise InputError(
            f"A picture of mode {image.mode!r} does not become {mode!r}, to which its column is cast ({error}). Cast "
            "the column to Image(), or to mode='RGB'."
        ) from error


def as_numbers(picture: Any, kind: Any) -> Any:
    """Nested lists of a column of 16-bit numbers as an array of these: in lists they would be of any size."""
    while not isinstance(kind, list) and hasattr(kind, "feature"):
        kind = kind.feature
    if not isinstance(picture, list) or getattr(kind, "dtype", None) != "uint16":
        return picture
    try:
        return np.asarray(picture, dtype=np.uint16)
    except (TypeError, ValueError):
        # Rows of several lengths, which are refused with what they are.
        return picture


def channels_of(image_processor: Any) -> int:
    """Channels of the pictures that an image processor prepares: as it says itself, else one a mean, else 3."""
    for name in ("n_channels", "num_channels"):
        said = getattr(image_processor, name, None)
        if isinstance(said, int) and said in _MODES:
            return said
    means = getattr(image_processor, "image_mean", None)
    if isinstance(means, (list, tuple)) and len(means) in _MODES and getattr(image_processor, "do_normalize", True):
        return len(means)
    return 3


class TimmImageProcessor:
    """timm's evaluation transform, called like an image processor of transformers.

    Args:
        data_config: as ``timm.data.resolve_model_data_config`` returns it: ``input_size`` (C, H, W),
            ``interpolation``, ``mean``, ``std``, ``crop_pct``, ``crop_mode``.
        architecture: timm's name of the model.

    Example:
        >>> processor = TimmImageProcessor({"input_size": (3, 32, 32)})
        >>> processor(Image.new("L", (40, 50)))["pixel_values"].shape
        torch.Size([1, 3, 32, 32])
    """

    model_input_names = ("pixel_values",)

    def __init__(self, data_config: dict[str, Any], architecture: str | None = None) -> None:
        self.data_config = timm.data.resolve_data_config({}, pretrained_cfg=dict(data_config))
        self.architecture = architecture
        self.transform = timm.data.create_transform(**self.data_config, is_training=False)

    @classmethod
    def from_model(cls, model: nn.Module, image_size: int | tuple[int, int] | None = None) -> TimmImageProcessor:
        """The transform that the checkpoint of a timm model asks for, at another (height, width) if one is given."""
        if not hasattr(model, "pretrained_cfg"):
            raise InputTypeError(f"{type(model).__name__} is no timm model: it has no pretrained_cfg.")
        config, pretrained = timm.data.resolve_model_data_config(model), cast(Any, model.pretrained_cfg)
        channels = _channels_read(model, pretrained.get("first_conv"))
        if channels not in (None, len(config["mean"])):
            # Made with in_chans=…, which the checkpoint's own preprocessing does not follow.
            config["input_size"] = (channels, *config["input_size"][1:])
            config |= {name: (sum(config[name]) / len(config[name]),) * channels for name in ("mean", "std")}
        if image_size is not None:
            size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
            config["input_size"] = (config["input_size"][0], *size)
        return cls(config, architecture=pretrained.get("architecture"))

    @property
    def n_channels(self) -> int:
        """Channels of the images that the model reads."""
        return self.data_config["input_size"][0]

    @property
    def size(self) -> dict[str, int]:
        """Height and width of what comes out."""
        return {"height": self.data_config["input_size"][1], "width": self.data_config["input_size"][2]}

    def __call__(self, images: Any, return_tensors: str = "pt", **ignored: Any) -> BatchFeature:
        """Images, one or a list, as ``{"pixel_values": tensor}`` of shape (n, C, H, W).

        Raises:
            ValueError: no images, or ``return_tensors`` other than ``"pt"``.
        """
        if return_tensors != "pt":
            raise InputError(f"TimmImageProcessor returns torch tensors (return_tensors='pt'), got {return_tensors!r}.")
        batch = as_list(images)
        if not batch:
            raise InputError("No images were given. Pass one image or a list of them.")
        pixels = torch.stack([self.transform(to_channels(image, self.n_channels)) for image in batch])
        return BatchFeature({"pixel_values": pixels})

    def to_dict(self) -> dict[str, Any]:
        """The form in which a folder keeps it."""
        return {
            "image_processor_type": "TimmWrapperImageProcessor",
            "architecture": self.architecture,
            "pretrained_cfg": {k: list(v) if isinstance(v, tuple) else v for k, v in self.data_config.items()},
        }

    def save_pretrained(self, folder: str | os.PathLike[str], **ignored: Any) -> list[str]:
        """Writes ``preprocessor_config.json`` into ``folder``."""
        path = Path(folder) / PROCESSOR_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n", encoding="utf-8")
        return [str(path)]

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> TimmImageProcessor:
        """Reads ``preprocessor_config.json`` or, where that is absent, timm's own ``config.json``."""
        for name in (PROCESSOR_NAME, "config.json"):
            path = Path(folder) / name
            if path.is_file():
                values = json.loads(path.read_text(encoding="utf-8"))
                if "pretrained_cfg" in values:
                    return cls(values["pretrained_cfg"], architecture=values.get("architecture"))
        raise InputError(f"{folder} holds no preprocessing in timm's form: neither {PROCESSOR_NAME} nor config.json.")


def _channels_read(model: nn.Module, first: Any) -> int | None:
    """Channels that the first convolution of a timm model reads; None where that is not known."""
    name = first[0] if isinstance(first, (list, tuple)) and first else first
    # None of them is an empty list in a file.
    layer = dict(model.named_modules()).get(name) if isinstance(name, str) else None
    return layer.in_channels if isinstance(layer, nn.Conv2d) else None


def as_list(images: Any) -> list[Any]:
    """One image, a batch as an array of shape (n, …), or a sequence, as a list of images."""
    if isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4:
        return list(images)
    if isinstance(images, Sequence) and not isinstance(images, (str, bytes)):
        return list(images)
    return [images]
