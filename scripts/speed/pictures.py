"""Pictures to train on."""

from __future__ import annotations

import io

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage

__all__ = ["pictures"]


def pictures(n: int, size: int, n_classes: int, seed: int = 0) -> Dataset:
    """JPEG pictures of which a brightness tells the class, under noise of every scale."""
    rng = np.random.default_rng(seed)
    labels = [int(label) for label in rng.integers(0, n_classes, n)]
    rows = []
    for label in labels:
        pixels = 40 + 160 * label / n_classes + rng.normal(0, 20, (size, size, 3))
        for cell in (size // 2, size // 8):
            coarse = rng.normal(0, 30, (-(-size // cell), -(-size // cell), 3))
            pixels += np.kron(coarse, np.ones((cell, cell, 1)))[:size, :size]
        with io.BytesIO() as file:
            PILImage.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
            rows.append({"bytes": file.getvalue(), "path": None})
    names = [f"class {label}" for label in range(n_classes)]
    return Dataset.from_dict(
        {"image": rows, "label": labels}, features=Features({"image": Image(), "label": ClassLabel(names=names)})
    )
