"""Whole runs: immunization with its cache over plain fine-tuning by the stock Trainer, their memory, two processes."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from datasets import Dataset
from speed.pictures import pictures
from speed.timing import PeakMemory, alternate, figure
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import Trainer, TrainingArguments, set_seed

from hf_immunize import ImmunizationArguments, ImmunizationTrainer
from hf_immunize.data.collate import collate_images
from hf_immunize.data.images import ImageInputs
from hf_immunize.data.preprocessing import TimmImageProcessor
from hf_immunize.models.frozen_prefix import FrozenPrefix
from hf_immunize.models.head import features_and_logits
from hf_immunize.models.trainable import select_trainable

__all__ = ["decoding", "memory_of_training", "operations_of_a_run", "pair_of_processes", "throughput", "whole_run"]

CLASSES, EPOCHS, RATE = 5, 3, 5e-4
SCRIPT = Path(__file__).parents[1] / "benchmark.py"


class Classifier(nn.Module):
    """A timm model as the stock Trainer takes one: loss and logits from images and labels."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.model(pixel_values)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def whole_run(
    architecture: str, image_size: int, n: int, batch: int, asked: str, repeats: int, device: torch.device
) -> dict[str, Any]:
    """Three epochs, loading of pictures and making of the cache included; the same part trains on both sides."""
    data = [pictures(n, round(1.14 * image_size), CLASSES, seed) for seed in (1, 2)]
    common: dict[str, Any] = {"per_device_train_batch_size": batch, "learning_rate": RATE, "use_cpu": _on_cpu(device)}
    common |= {"num_train_epochs": EPOCHS, "save_strategy": "no", "report_to": "none", "disable_tqdm": True}

    def ours(data: list[Dataset]) -> None:
        model, processor = _made(architecture, image_size)
        with tempfile.TemporaryDirectory() as folder, _quiet():
            args = ImmunizationArguments(folder, **common)
            ImmunizationTrainer(
                model, args, train_dataset=data[0], harmful_dataset=data[1], processing_class=processor
            ).train()

    def plain(data: list[Dataset]) -> None:
        model, processor = _made(architecture, image_size)
        select_trainable(model, "last", torch.randn(2, 3, image_size, image_size))
        with tempfile.TemporaryDirectory() as folder, _quiet():
            args = TrainingArguments(folder, remove_unused_columns=False, **common)
            rows = ImageInputs(data[0], processor)
            Trainer(Classifier(model), args, train_dataset=rows, data_collator=collate_images).train()

    # A batch of each first: what is imported and made when it is first used is no part of a run.
    few = [one.select(range(batch)) for one in data]
    for side in (ours, plain):
        side(few)
    sides = {"immunize": lambda: ours(data), "plain": lambda: plain(data)}
    times = alternate(sides, repeats, device, warm_up=False)
    return figure(
        f"a run of {EPOCHS} epochs with cache, regularizers and harmful stream over plain fine-tuning by the stock "
        f"Trainer: {architecture}, {n} + {n} pictures at {image_size} px",
        times["immunize"] / times["plain"],
        asked,
        immunize_s=times["immunize"],
        plain_s=times["plain"],
    )


def operations_of_a_run(architecture: str, image_size: int) -> dict[str, Any]:
    """Both sides of :func:`whole_run` by the operations of their models alone, without pictures and optimizers.

    The frozen part runs once for each image of both tasks on one side, and for each primary image of each epoch on the
    other; what trains runs forwards and backwards, for two batches a step and for one, and on the first side without
    what nothing reads.
    """
    model, _ = _made(architecture, image_size)
    images = torch.randn(2, 3, image_size, image_size)
    select_trainable(model, "last", images)
    prefix = FrozenPrefix(model, images)
    with FlopCounterMode(display=False) as frozen:
        prefix(images)
    with FlopCounterMode(display=False) as whole:
        model(images).sum().backward()
    activations = prefix(images)
    with FlopCounterMode(display=False) as behind, prefix.bypassed():
        features_and_logits(model, activations)[1].sum().backward()
    fixed, ours = frozen.get_total_flops(), behind.get_total_flops()
    trained = whole.get_total_flops() - fixed
    return figure(
        f"such a run by operations of the models alone: {architecture} at {image_size} px",
        (2 * fixed + 2 * EPOCHS * ours) / (EPOCHS * (fixed + trained)),
        "",
        share_of_the_frozen_part=fixed / (fixed + trained),
    )


def decoding(n: int, repeats: int, device: torch.device) -> dict[str, Any]:
    """Pictures of ImageNet's size that become images of 224 px, a second of one core."""
    _, processor = _made("vit_tiny_patch16_224", 224)
    rows = ImageInputs(pictures(n, 432, CLASSES), processor)
    times = alternate({"decoding": lambda: rows.__getitems__(range(n))}, repeats, device)
    return figure(
        "JPEG pictures of 432 x 432 decoded and prepared for 224 px a second of a core", n / times["decoding"], ""
    )


def memory_of_training(folder: str) -> float:
    """Peak memory of this process's own, MiB, after 60 steps on the pictures saved in a folder."""
    data = Dataset.load_from_disk(folder)
    model, processor = _made("resnet10t", 32)
    with tempfile.TemporaryDirectory() as output, _quiet(), PeakMemory() as peak:
        args = ImmunizationArguments(
            output, max_steps=60, save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True
        )
        ImmunizationTrainer(model, args, train_dataset=data, harmful_dataset=data, processing_class=processor).train()
    return peak.mib


def pair_of_processes(steps: int = 20, batch: int = 64) -> dict[str, Any]:
    """Images a second of two processes with half the batch each over one with the whole, one thread a process."""
    rates = []
    for count in (1, 2):
        command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={count}", "--standalone"]
        command += [str(SCRIPT), "--child", "throughput", str(steps), str(batch // count)]
        given = {**os.environ, "OMP_NUM_THREADS": "1"}
        shown = subprocess.run(command, capture_output=True, text=True, check=True, env=given).stdout
        # Lines of two processes may run into one another.
        seconds = max(float(one) for one in re.findall(r"child (\d+\.\d+)", shown))
        rates.append(steps * 2 * batch / seconds)
    return figure(
        f"2 processes over 1, same global batch: resnet18, {batch} + {batch} at 64 px, {steps} steps",
        rates[1] / rates[0],
        ">= 1.6",
        images_a_second=rates,
    )


def throughput(steps: int, batch: int) -> float:
    """Seconds that this process, one of a group, needs for steps without the cache, by the clock."""
    data = [pictures(256, 73, CLASSES, seed) for seed in (1, 2)]
    model, processor = _made("resnet18", 64)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        args = ImmunizationArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=batch,
            cache_frozen="off",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = ImmunizationTrainer(
            model, args, train_dataset=data[0], harmful_dataset=data[1], processing_class=processor
        )
        start = time.perf_counter()
        trainer.train()
        return time.perf_counter() - start


def _made(architecture: str, image_size: int) -> tuple[nn.Module, TimmImageProcessor]:
    set_seed(0)
    sized = {"img_size": image_size} if architecture.startswith("vit") and image_size != 224 else {}
    model = timm.create_model(architecture, num_classes=CLASSES, **sized)
    return model, TimmImageProcessor.from_model(model, image_size=image_size)


def _on_cpu(device: torch.device) -> bool:
    return device.type == "cpu"


def _quiet() -> contextlib.AbstractContextManager[Any]:
    return contextlib.redirect_stdout(sys.stderr)
