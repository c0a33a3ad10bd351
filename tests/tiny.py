"""Tiny models, images with structure and data sets of small pictures."""

from __future__ import annotations

import copy

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from torch import nn


class TinyBlock(nn.Module):
    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.drop(torch.relu(self.norm(self.conv(x))))


class TinyNet(nn.Module):
    """A plain classifier with a sequence of blocks, BatchNorm, dropout and a head called ``score``."""

    def __init__(self, n_classes: int = 3, width: int = 12, channels: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.Sequential(*(TinyBlock(width, dropout) for _ in range(3)))
        self.widen = nn.Conv2d(width, 24, 1)
        self.score = nn.Linear(24, n_classes)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        features = torch.relu(self.widen(self.blocks(self.stem(pixel_values)))).mean((2, 3))
        return self.score(features)


class Images(torch.utils.data.Dataset):
    """Images (3, 8, 8) whose class is a direction plus noise."""

    def __init__(self, n: int, n_classes: int = 3, seed: int = 0, labels: bool = True, channels: int = 3) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.y = torch.randint(n_classes, (n,), generator=generator)
        means = torch.randn(n_classes, channels, 8, 8, generator=generator)
        self.x = means[self.y] + torch.randn(n, channels, 8, 8, generator=generator)
        self.with_labels = labels

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        item = {"pixel_values": self.x[index]}
        return item | {"labels": self.y[index]} if self.with_labels else item


def picture_dataset(n: int = 40, n_classes: int = 2, size: int = 8, seed: int = 0, mode: str = "RGB") -> Dataset:
    """A `datasets` data set of small pictures whose brightness tells the class."""
    rng = np.random.default_rng(seed)
    labels = [int(label) for label in rng.integers(0, n_classes, n)]
    shape = (size, size, 3) if mode == "RGB" else (size, size)
    pixels = [
        np.clip(rng.normal(60 + 120 * label / max(1, n_classes - 1), 25, shape), 0, 255).astype(np.uint8)
        for label in labels
    ]
    return Dataset.from_dict(
        {"image": [PILImage.fromarray(one) for one in pixels], "label": labels},
        features=Features({"image": Image(), "label": ClassLabel(names=[f"class {k}" for k in range(n_classes)])}),
    )


def direct(model, images, dtype=torch.float64):
    """Features by hand, through the layers of TinyNet."""
    model = copy.deepcopy(model).to(dtype).eval()
    with torch.no_grad():
        return torch.relu(model.widen(model.blocks(model.stem(images.to(dtype))))).mean((2, 3))


class Skips(TinyNet):
    """The stem's output also goes around the blocks, so that no frozen part can be run apart."""

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        stem = self.stem(pixel_values)
        return self.score(torch.relu(self.widen(self.blocks(stem) + stem)).mean((2, 3)))
