"""Pictures, files of them and data sets of them, as tests of the data need them."""

from __future__ import annotations

import io

import numpy as np
from datasets import DatasetDict
from PIL import Image as PILImage
from samples import tiny_vit
from tiny import picture_dataset


def pixels(data):
    return [row["image"].tobytes() for row in data]


def write(root, *paths):
    for number, path in enumerate(paths):
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        PILImage.new("RGB", (8, 8), (number, 0, 0)).save(target)
    return root


def labelled(column, feature=None):
    data = picture_dataset(len(column)).remove_columns("label")
    return data.add_column("label", column, feature=feature)


HALVES = np.zeros((8, 8, 3), np.uint8)
HALVES[:4] = 255
UPRIGHT = PILImage.fromarray(HALVES)


def stored(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def processor():
    return tiny_vit()[1]


def splits(**sizes):
    return DatasetDict({name: picture_dataset(n, seed=len(name)) for name, n in sizes.items()})
