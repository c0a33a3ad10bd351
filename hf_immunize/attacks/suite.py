"""Every attacker on every model, and the strongest of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hf_immunize.attacks.probes import PROBES, fit_probe
from hf_immunize.data import as_inputs
from hf_immunize.evaluation import Extracted, extract_features

__all__ = ["AttackReport", "probe_report", "run_attacks"]

STEPS = (10, 30, 100, 300)


@dataclass(frozen=True)
class AttackReport:
    """Harmful test accuracy of each attacker on each model after each number of steps.

    Attributes:
        accuracy: attacker → model (``initial``, ``immunized``, ``control``) → steps → accuracy, a share.
        chance: the share of the largest class of the test rows.
        n_train: rows that each attacker fitted on.
        n_test: rows that it was judged by.
    """

    accuracy: Mapping[str, Mapping[str, Mapping[int, float]]]
    chance: float
    n_train: int
    n_test: int

    @property
    def steps(self) -> list[int]:
        first = next(iter(next(iter(self.accuracy.values())).values()))
        return sorted(first)

    def strongest(self, model: str) -> tuple[str, float]:
        """The attacker that recovers most on ``model`` after the last step, and its accuracy."""
        last = self.steps[-1]
        return max(((name, curves[model][last]) for name, curves in self.accuracy.items()), key=lambda pair: pair[1])

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for a record."""
        models = next(iter(self.accuracy.values()))
        return {
            "attackers": {
                name: {model: {str(step): value for step, value in curve.items()} for model, curve in curves.items()}
                for name, curves in self.accuracy.items()
            },
            "steps": self.steps,
            "strongest": {
                model: dict(zip(("attacker", "accuracy"), self.strongest(model), strict=True)) for model in models
            },
            "chance": self.chance,
            "n_train": self.n_train,
            "n_test": self.n_test,
        }

    def __str__(self) -> str:
        models = list(next(iter(self.accuracy.values())))
        lines = ["attacker".ljust(32) + "".join(model.rjust(12) for model in models)]
        last = self.steps[-1]
        for name, curves in self.accuracy.items():
            lines.append(name.ljust(32) + "".join(f"{100 * curves[model][last]:11.1f}%" for model in models))
        return "\n".join(lines)


def run_attacks(
    model: nn.Module,
    base_model: nn.Module,
    train: Any,
    test: Any,
    *,
    control: nn.Module | None = None,
    image_processor: Any = None,
    attackers: Sequence[str] = tuple(PROBES),
    steps: Sequence[int] = STEPS,
    batch_size: int = 64,
    device: torch.device | str | None = None,
) -> AttackReport:
    """Fits harmful heads with every attacker on the features of each model.

    Args:
        model: the immunized classifier.
        base_model: θ0.
        train: harmful images with labels, to fit on.
        test: harmful images with labels, to judge by.
        control: a model of the same training with λ = 0.
        image_processor: needed for raw images.
        attackers: some of :data:`hf_immunize.attacks.PROBES`.
        steps: at which the accuracy is taken.
        batch_size: of the forward passes.
        device: where the models run; their own if not given.

    Raises:
        ValueError: data without labels or rows, an unknown attacker.
    """
    models = {"initial": base_model, "immunized": model} | ({} if control is None else {"control": control})
    sets = {"train": as_inputs(train, image_processor), "test": as_inputs(test, image_processor)}
    extracted = {
        name: {split: extract_features(one, data, batch_size=batch_size, device=device) for split, data in sets.items()}
        for name, one in models.items()
    }
    return probe_report(extracted, attackers=attackers, steps=steps)


def probe_report(
    extracted: Mapping[str, Mapping[str, Extracted]],
    *,
    attackers: Sequence[str] = tuple(PROBES),
    steps: Sequence[int] = STEPS,
) -> AttackReport:
    """Every attacker on features already extracted: model → ``train`` and ``test`` → features and labels."""
    for name, splits in extracted.items():
        for split in ("train", "test"):
            if splits[split].labels is None:
                raise ValueError(f"The harmful {split} images of {name!r} have no labels: no attacker can be fitted.")
    accuracy = {
        attacker: {
            name: fit_probe(
                attacker,
                splits["train"].features,
                splits["train"].labels,
                splits["test"].features,
                splits["test"].labels,
                steps=steps,
            )
            for name, splits in extracted.items()
        }
        for attacker in attackers
    }
    first = next(iter(extracted.values()))
    counts = torch.bincount(first["test"].labels)
    return AttackReport(
        accuracy, (counts.max() / counts.sum()).item(), len(first["train"].labels), len(first["test"].labels)
    )
