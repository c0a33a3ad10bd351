"""One immunization from a model and data to a released folder: train, train the control, measure, record, save."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from hf_immunize.attacks.suite import CARD_BUDGETS, Features, attack_features
from hf_immunize.data.images import collate_images
from hf_immunize.metrics.evaluation import Protocol, rir_report
from hf_immunize.models.extraction import Extracted, extract_features
from hf_immunize.models.frozen_prefix import CachedActivations, FrozenPrefix
from hf_immunize.models.trainable import TrainableSelection, select_trainable
from hf_immunize.release.measure import spectra_of
from hf_immunize.training.arguments import ImmunizationArguments
from hf_immunize.training.trainer import ImmunizationTrainer

__all__ = ["CachedTask", "Recipe", "cache_tasks", "measure", "tail_features", "train_cached"]


@dataclass(frozen=True)
class Recipe:
    """The numbers of one training run.

    Args:
        steps: optimizer steps.
        learning_rate: peak, falling linearly to zero after the warm-up.
        lambda_primary: weight of R_well; 0 with lambda_harmful = 0 is plain fine-tuning, the control.
        lambda_harmful: weight of R_ill.
        objective: a key of :data:`hf_immunize.objectives.objectives.OBJECTIVES`.
        scale_free: False for the paper's raw regularizers.
        optim: an optimizer of `transformers`.
        batch_size: images of each task a step.
        max_grad_norm: gradients are clipped to this norm.
        label_smoothing: of the primary task's cross-entropy.
        warmup_steps: over which the learning rate rises; a first step at the full rate can make features die.
        seed: of the order of the data.
    """

    steps: int
    learning_rate: float
    lambda_primary: float = 0.0
    lambda_harmful: float = 0.0
    objective: str = "condition"
    scale_free: bool = True
    optim: str = "sgd"
    batch_size: int = 64
    max_grad_norm: float = 1.0
    label_smoothing: float = 0.0
    warmup_steps: int = 0
    seed: int = 0

    def control(self) -> Recipe:
        """The same steps with λ = 0."""
        return Recipe(**(asdict(self) | {"lambda_primary": 0.0, "lambda_harmful": 0.0, "objective": "condition"}))

    def arguments(self, output_dir: str, **extra: Any) -> ImmunizationArguments:
        """As arguments of the Trainer, without checkpoints."""
        settings: dict[str, Any] = {
            "output_dir": output_dir,
            "max_steps": self.steps,
            "learning_rate": self.learning_rate,
            "lambda_primary": self.lambda_primary,
            "lambda_harmful": self.lambda_harmful,
            "objective": self.objective,
            "scale_free": self.scale_free,
            "optim": self.optim,
            "per_device_train_batch_size": self.batch_size,
            "max_grad_norm": self.max_grad_norm,
            "label_smoothing_factor": self.label_smoothing,
            "warmup_steps": self.warmup_steps,
            "seed": self.seed,
            "save_strategy": "no",
            "report_to": "none",
            "logging_steps": max(1, self.steps // 10),
            "dataloader_pin_memory": False,
        }
        return ImmunizationArguments(**(settings | extra))


@dataclass
class CachedTask:
    """Training and evaluation activations of one task behind a frozen prefix; the latter in float64."""

    train: CachedActivations
    eval: CachedActivations


def cache_tasks(
    model: nn.Module, selection: TrainableSelection, tasks: dict[str, tuple[Any, Any]], *, progress: bool = True
) -> dict[str, CachedTask]:
    """Runs the frozen part once over every task's training data (float32) and evaluation data (float64)."""
    sample = collate_images([next(iter(tasks.values()))[0][0]])
    names = list(selection.modules)
    single, double = model, copy.deepcopy(model).double()
    select_trainable(single, names, sample)
    select_trainable(double, names, {"pixel_values": sample["pixel_values"].double()})
    prefix = FrozenPrefix(single, sample["pixel_values"])
    exact = FrozenPrefix(double, sample["pixel_values"].double())
    cached = {}
    for name, (train, evaluation) in tasks.items():
        label = f"frozen part over the {name} images" if progress else None
        cached[name] = CachedTask(
            CachedActivations(prefix, train, progress=label),
            CachedActivations(exact, evaluation, dtype=torch.float64, progress=label),
        )
    return cached


def train_cached(
    model: nn.Module,
    selection: TrainableSelection,
    primary: CachedActivations,
    harmful: CachedActivations | None,
    recipe: Recipe,
    images: torch.Tensor,
    *,
    progress: bool = True,
) -> None:
    """Trains ``model`` in place on cached activations.

    Args:
        model: the classifier.
        selection: what trains.
        primary: activations of the primary training data behind the model's frozen part.
        harmful: of the harmful training data; None for the control.
        recipe: the numbers.
        images: a batch of images to split the model with, (n, C, H, W).
        progress: show the Trainer's progress bar.
    """
    select_trainable(model, list(selection.modules), images)
    tail = FrozenPrefix(model, images).tail
    with tempfile.TemporaryDirectory() as folder:
        arguments = recipe.arguments(
            folder, trainable=list(selection.modules), disable_tqdm=not progress, use_cpu=not torch.cuda.is_available()
        )
        trainer = ImmunizationTrainer(tail, arguments, train_dataset=primary, harmful_dataset=harmful)
        trainer.train()
    model.eval()


def tail_features(
    model: nn.Module,
    selection: TrainableSelection,
    data: CachedActivations,
    images: torch.Tensor,
    dtype: torch.dtype | None = None,
) -> Extracted:
    """Features, logits and labels of cached activations, in the activations' precision or a given one."""
    dtype = dtype or data.activations.dtype
    ready = copy.deepcopy(model).to(dtype)
    images = images.to(next(ready.parameters()).device, dtype)
    select_trainable(ready, list(selection.modules), images)
    return extract_features(FrozenPrefix(ready, images).tail, data, batch_size=256, dtype=dtype)


def measure(
    models: dict[str, nn.Module],
    selection: TrainableSelection,
    tasks: dict[str, CachedTask],
    images: torch.Tensor,
    *,
    scratch: Mapping[str, Features] | None = None,
    attack: bool = True,
    progress: bool = True,
) -> dict[str, Any]:
    """Results in the form of a record: RIR_θ0 of every model against ``models["initial"]``, spectra, and the probes.

    Args:
        models: ``initial``, ``immunized`` and, where there is one, ``control``.
        selection: what trained.
        tasks: activations by task, ``primary`` and ``harmful`` among them; with ``benign`` the probes run on it too.
        images: a batch of images to split the models with, (n, C, H, W).
        scratch: task → features of random weights, or a function from a seed to them; the reference of the attackers.
        attack: run the probes.
        progress: show a progress bar.
    """
    found = {
        name: {
            task: {
                "train": tail_features(model, selection, cached.train, images, torch.float64),
                "test": tail_features(model, selection, cached.eval, images),
            }
            for task, cached in tasks.items()
        }
        for name, model in models.items()
    }
    initial = found["initial"]
    reports = {
        name: rir_report(
            one["harmful"]["test"].features,
            initial["harmful"]["test"].features,
            one["primary"]["test"].features,
            initial["primary"]["test"].features,
            protocol=Protocol(),
        )
        for name, one in found.items()
        if name != "initial"
    }
    results = {
        "primary_accuracy": {name: one["primary"]["test"].accuracy for name, one in found.items()},
        "rir": {name: report.to_dict() for name, report in reports.items()},
        "spectra": spectra_of(reports["immunized"]),
    }
    if not attack:
        return results
    attacked: dict[str, Mapping[str, Any]] = found | ({} if scratch is None else {"scratch": scratch})
    attacks = attack_features(
        {name: one["harmful"] for name, one in attacked.items()},
        benign={name: one["benign"] for name, one in attacked.items()} if "benign" in tasks else None,
        budgets=CARD_BUDGETS,
        progress=progress,
    )
    return results | {"attacks": attacks.to_dict()}
