"""Whatever stands for a picture → an upright PIL image, or an error that names the file."""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Image as ImageFeature
from PIL import Image, ImageOps
from transformers.utils import logging

from hf_immunize.errors import InputError, InputTypeError

__all__ = ["CorruptPictureError", "open_picture", "upper_8_bits"]

logger = logging.get_logger(__name__)

# What Pillow raises for files that are cut off, empty, of another kind, or harmful.
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, Image.DecompressionBombError)
#: Formats that Pillow hands to other programs to be run.
_PROGRAMS = ("EPS", "WMF")
_CHANNELS = (1, 3, 4)
_ORIENTATION = 0x0112
#: A picture as text, alone or as a data URI.
_BASE64 = re.compile(r"(data:[\w/+.;=-]+,)?[A-Za-z0-9+/\s]+={0,2}\s*")
# Characters of a path in a message; what is longer is hardly one.
_LONGEST_NAME = 300


class CorruptPictureError(InputError):
    """A file that holds no whole picture."""


def open_picture(picture: Any) -> Image.Image:
    """A picture, decoded to its last pixel and turned upright as its EXIF tag says.

    Args:
        picture: a PIL image; the bytes of a file; a path; a mapping with ``bytes`` or ``path``, as
            ``Image(decode=False)`` and parquet files of pandas give it; or integers of 8 or 16 bits or booleans of
            shape (H, W), (H, W, C) or (C, H, W) with C = 1, 3 or 4, as an array, a tensor or nested lists. Of a shape
            that can be read both ways, an array is (H, W, C) and a tensor (C, H, W).

    Raises:
        CorruptPictureError: nothing there, or a file that holds no whole picture.
        TypeError: nothing that stands for a picture.
        ValueError: numbers or a shape that are no picture's.
    """
    if isinstance(picture, (torch.Tensor, np.ndarray, list)):
        return _from_numbers(picture)
    try:
        image = _opened(picture)
        if image.format in _PROGRAMS:
            raise CorruptPictureError(
                f"{_named(picture)} is {image.format}, a program for another program and no picture. Convert it first."
            )
        image.load()
        # Pillow copies the pixels, and forgets the format, even where there is nothing to turn.
        return ImageOps.exif_transpose(image) if image.getexif().get(_ORIENTATION, 1) != 1 else image
    except (InputError, InputTypeError):
        raise
    except _UNREADABLE as error:
        if _is_base64(picture):
            raise InputError(
                f"{_named(picture)} is a picture as base64 text; bytes or a path were expected. Decode the column "
                "first: dataset.map(lambda row: {'image': {'bytes': base64.b64decode(row['image'].split(',')[-1])}})"
                ".cast_column('image', datasets.Image())."
            ) from error
        if not isinstance(error, FileNotFoundError):
            raise CorruptPictureError(
                f"{_named(picture)} cannot be read as a picture ({_reason(error)}). Mend or remove it, or pass "
                "skip_corrupt=True (--skip_corrupt) to go on without such files."
            ) from error
        raise CorruptPictureError(
            f"There is no file {_named(picture)}. Mend the path, or leave the row out."
        ) from error


def _opened(picture: Any) -> Image.Image:
    if isinstance(picture, Image.Image):
        return picture
    if isinstance(picture, (bytes, bytearray, memoryview)):
        return Image.open(io.BytesIO(picture))
    if isinstance(picture, (str, os.PathLike)):
        if "://" in os.fspath(picture):
            return ImageFeature().decode_example({"path": os.fspath(picture), "bytes": None})
        return Image.open(Path(picture).expanduser())
    if isinstance(picture, Mapping) and ("bytes" in picture or "path" in picture):
        content, path = picture.get("bytes"), picture.get("path")
        if content is None and path is None:
            raise CorruptPictureError("A picture with neither bytes nor a path was given. Leave the row out.")
        return _opened(path if content is None else content)
    if picture is None:
        raise CorruptPictureError(
            "No picture was given (None). Leave the row out, or pass skip_corrupt=True (--skip_corrupt)."
        )
    raise InputTypeError(
        "A picture must be a PIL image, bytes, a path, a mapping with 'bytes' or 'path', an array or a tensor; got "
        f"{type(picture).__name__}."
    )


def upper_8_bits(pixels: np.ndarray) -> np.ndarray:
    """Of 16-bit pixels; a picture that uses no more than 12 of its bits is said, since it comes out black."""
    if pixels.size and 0 < pixels.max() < 2**12:
        logger.warning_once(
            "A picture of 16 bits has no value above 4095 (8 or 12 bits in 16, or a mask?): taken as 16 bits, it comes "
            "out black or nearly so. Scale such pictures to the whole range, or save them in 8 bits."
        )
    return (pixels >> 8).astype(np.uint8)


def _from_numbers(numbers: Any) -> Image.Image:
    channels_first = isinstance(numbers, torch.Tensor)
    if isinstance(numbers, list) and any(isinstance(one, (Image.Image, Mapping, str, bytes)) for one in numbers):
        raise InputTypeError(
            f"A list of {len(numbers)} pictures was given where one picture was expected. Give each a row of its own."
        )
    try:
        array = numbers.detach().cpu().numpy() if isinstance(numbers, torch.Tensor) else np.asarray(numbers)
    except (TypeError, ValueError) as error:
        raise InputTypeError("An image must be numbers of one shape, got lists of different lengths.") from error
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype == np.uint16:
        array = upper_8_bits(array)
    elif array.dtype != np.uint8:
        if array.dtype.kind not in "iu" or not array.size or array.min() < 0 or array.max() > 255:
            raise InputError(
                f"Pixels must be 8-bit integers (0…255) or 16-bit ones (uint16), got {array.dtype}"
                + (f" from {array.min():g} to {array.max():g}" if array.dtype.kind in "iuf" and array.size else "")
                + ". Scale them to 0…255 and convert them first: (255 * pixels).astype('uint8') for 0…1."
            )
        array = array.astype(np.uint8)
    if array.ndim == 3:
        first, last = array.shape[0] in _CHANNELS, array.shape[2] in _CHANNELS
        if first and (channels_first or not last):
            array = array.transpose(1, 2, 0)
        array = array[:, :, 0] if array.shape[2] == 1 else array
    if 0 in array.shape or (array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise InputError(f"An image must have shape (H, W), (H, W, C) or (C, H, W), C = 1, 3 or 4; got {array.shape}.")
    return Image.fromarray(np.ascontiguousarray(array))


def _is_base64(picture: Any) -> bool:
    """Whether a text in the place of a path is the picture itself, as CSV and JSON hold one."""
    text = _place(picture)
    if text is None or not _BASE64.fullmatch(text):
        return False
    try:
        Image.open(io.BytesIO(base64.b64decode(text.rpartition(",")[2]))).close()
    except (binascii.Error, *_UNREADABLE):
        # What says so of itself need not be whole.
        return text.startswith("data:")
    return True


def _place(picture: Any) -> str | None:
    """The path or text that a picture was given as."""
    if isinstance(picture, Mapping):
        # Bytes come before a path.
        picture = picture.get("path") if picture.get("bytes") is None else None
    return os.fspath(picture) if isinstance(picture, (str, os.PathLike)) else None


def _named(picture: Any) -> str:
    if isinstance(picture, Mapping):
        path = picture.get("path")
    elif isinstance(picture, Image.Image):
        path = getattr(picture, "filename", None)
    else:
        path = picture if isinstance(picture, (str, os.PathLike)) else None
    name = str(path) if path else ""
    if len(name) > _LONGEST_NAME:
        return f"{name[:40]!r}… ({len(name):,} characters)"
    return repr(name) if name else "A picture given as bytes"


def _reason(error: Exception) -> str:
    # Pillow's words for a file that it does not know are about the buffer, not about the file.
    if "cannot identify image" in str(error):
        return "no kind of picture that Pillow knows"
    # Those of the system repeat the path.
    return getattr(error, "strerror", None) or str(error)
