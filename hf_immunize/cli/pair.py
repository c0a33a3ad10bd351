"""The two models that a verb compares, and whose image processor prepares pictures for both."""

from __future__ import annotations

import argparse
import os

import numpy as np
import torch
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from hf_immunize.cli.printing import say
from hf_immunize.data.images import ImageInputs
from hf_immunize.models.loaded import LoadedModel

__all__ = ["prepare_alike", "reader_of", "say_if_beside_itself"]


def say_if_beside_itself(options: argparse.Namespace) -> None:
    """Says that ``--base`` names the model itself: RIR is 1 then, which tries a set-up only."""
    names = [
        os.path.realpath(os.path.expanduser(one)) if os.path.exists(os.path.expanduser(one)) else one
        for one in (options.model, options.base)
    ]
    if names[0] == names[1]:
        say(
            [
                f"--base names the model itself ({options.base}): it is compared with itself, so that RIR is 1 "
                "and every recovery whole. To learn what was gained, name the model that it started from; a release "
                "may carry it under initial/."
            ]
        )


def prepare_alike(one: LoadedModel, other: LoadedModel) -> bool:
    """Whether the image processors of two models make the same of a picture: size, mean and scale.

    Raises:
        InputError: one of them cannot prepare a picture.
    """
    ramp = Image.fromarray(np.arange(3 * 64 * 64, dtype=np.uint32).astype(np.uint8).reshape(64, 64, 3))
    picture = Dataset.from_dict({"image": [ramp]}, features=Features({"image": ImageFeature()}))
    first, second = (
        ImageInputs(picture, each.image_processor, labels="unused", n_channels=each.n_channels)[0]["pixel_values"]
        for each in (one, other)
    )
    return first.shape == second.shape and torch.allclose(first, second, atol=1e-4)


def reader_of(model: LoadedModel, base: LoadedModel) -> LoadedModel:
    """The one whose image processor prepares the pictures for both: the model's, as it is used; else that of ``base``.

    Raises:
        InputError: neither holds one.
    """
    if model.image_processor is None:
        base.require_processor()
        return base
    if base.image_processor is not None and not prepare_alike(model, base):
        say(
            [
                "the image processors of the model and of --base prepare pictures otherwise (size, mean or scale): "
                "both models are given what that of the model makes."
            ]
        )
    return model
