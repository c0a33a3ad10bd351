"""A record as a finished run would write it, and models small enough for a test."""

from __future__ import annotations

import copy
from typing import Any

import timm
import torch
from torch import nn
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from hf_immunize.attacks import ATTACKERS, AttackReport, Budgets
from hf_immunize.attacks.judging import Outcome
from hf_immunize.attacks.summary import summarise
from hf_immunize.release.measure import spectra_results
from hf_immunize.release.record import DatasetRecord, ImmunizationRecord
from hf_immunize.spectra.ratio import relative_immunization_ratio

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODELS = ("initial", "control", "immunized")


def features(n: int, d: int, decades: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) * torch.logspace(0, -decades, d).double()


def rir_report(rir: float = 1.4e5, rir_i: float = 2.1e7, rir_ii: float = 150.0, bound: str = "exact") -> dict[str, Any]:
    ratio = relative_immunization_ratio(*(features(60, 20, decades, 0) for decades in (4, 1, 1, 1.5)))
    values = {"spread": 0.25, "median": 1.0}
    return {
        "protocol": {"groups": 20, "group_size": 100, "seed": 0, "dtype": "float64"},
        "rir": {"mean": rir, "bound": bound, **values},
        "rir_i": {"mean": rir_i, "bound": bound, **values},
        "rir_ii": {"mean": rir_ii, "bound": "exact", **values},
        "ranks": {"initial_harmful": 99, "immunized_harmful": 98, "initial_primary": 97, "immunized_primary": 96},
        "precision_limited": False,
        "all_samples": ratio.to_dict(),
        "n_harmful": 60,
        "n_primary": 60,
    }


#: Attacker → accuracy on each model at the largest budget.
ACCURACY = {
    "gradient descent, 1/L": {"initial": 0.836, "control": 0.82, "immunized": 0.62, "scratch": 0.3},
    "Adam, best rate": {"initial": 0.954, "control": 0.93, "immunized": 0.684, "scratch": 0.4},
    "ridge regression": {"initial": 0.874, "control": 0.88, "immunized": 0.644, "scratch": 0.35},
}


def outcomes(accuracy=None, steps=(10, 300), samples=(None,), seeds=2, m=500):
    """Outcomes of planted accuracies: at the first budget of steps half of what is reached at the last."""
    return {
        (attacker, model, count, step): [
            Outcome("rate 0.1", last, torch.arange(m) < round(m * last * (0.5 if step < steps[-1] else 1)))
            for _ in range(seeds)
        ]
        for attacker, by_model in (accuracy or ACCURACY).items()
        for model, last in by_model.items()
        for count in samples
        for step in steps
    }


def attack_report(accuracy=None, benign=None, **changes: Any) -> AttackReport:
    """The report of planted accuracies."""
    accuracy = accuracy or ACCURACY
    attackers = [ATTACKERS[name] for name in accuracy]
    settings: dict[str, Any] = {
        "benign": outcomes(benign, steps=(300,)) if benign else {},
        "exact": {
            "initial": {0.5: 3, 0.1: 40, 0.01: 900},
            "immunized": {0.5: 70, 0.1: 5_000_000, 0.01: None},
        },
        "chance": 0.2,
        "n_train": 2000,
        "n_test": 500,
        "notes": [],
    }
    budgets = Budgets((None,), (10, 300), (None,), (10, 300), seeds=(0, 1))
    return summarise(outcomes(accuracy), attackers, budgets, **(settings | changes))


def attacks() -> dict[str, Any]:
    return attack_report(
        benign={"Adam, best rate": {"initial": 0.8, "control": 0.79, "immunized": 0.75, "scratch": 0.3}}
    ).to_dict()


def sample_record(**changes: Any) -> ImmunizationRecord:
    """A complete record of data sets and a base model from the Hub."""
    spectra = {
        f"{model}_{task}": relative_immunization_ratio(x, x, x, x).initial_harmful
        for model in ("initial", "immunized")
        for task in ("harmful", "primary")
        for x in [features(60, 20, 4 if (model, task) == ("immunized", "harmful") else 1, 0)]
    }
    values: dict[str, Any] = {
        "base_model": "someone/vit-tiny",
        "base_model_revision": COMMIT,
        "base_model_kind": "hub",
        "library": "transformers",
        "architecture": "ViTForImageClassification",
        "primary": DatasetRecord(
            "someone/birds", COMMIT, "default", "train", "test", "f1", 2000, 500, ["crow", "owl", "wren"], "mit"
        ),
        "harmful": DatasetRecord("someone/faces", COMMIT, None, "train", "test", "f2", 1000, 250),
        "benign": DatasetRecord("textures in a folder", n_train=10, n_eval=5),
        "objective": {"name": "condition", "lambda_primary": 1.0, "lambda_harmful": 1.0, "scale_free": True},
        "trainable": {"selection": "last", "modules": ["classifier"], "n_parameters": 99, "n_total": 12345},
        "training": {"steps": 300, "learning_rate": 3e-3, "optimizer": "SGD"},
        "seeds": {"training": 7},
        "command": "hf-immunize train --model someone/vit-tiny",
        "license": "apache-2.0",
        "results": {
            "primary_accuracy": {"initial": 0.968, "immunized": 0.964, "control": 0.974},
            "rir": {"immunized": rir_report(), "control": rir_report(26.0, 690.0, 34.0)},
            "attacks": attacks(),
            "spectra": spectra_results(**spectra),
        },
    }
    return ImmunizationRecord(**copy.deepcopy(values | changes))


def tiny_vit(labels: tuple[str, ...] = ("crow", "owl", "wren")) -> tuple[nn.Module, ViTImageProcessor]:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        image_size=32,
        patch_size=16,
        id2label=dict(enumerate(labels)),
        label2id={name: index for index, name in enumerate(labels)},
    )
    return ViTForImageClassification(config).eval(), ViTImageProcessor(size={"height": 32, "width": 32})


def tiny_timm(name: str = "test_resnet", num_classes: int = 3, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=num_classes, **options).eval()
