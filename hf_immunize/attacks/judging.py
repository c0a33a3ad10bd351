"""How an attack is measured: split, budget, choice on validation rows, verdict on test rows."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.utils.data import ConcatDataset, Dataset, Subset

from hf_immunize.attacks.attacker import Attacker, AttackTask, View
from hf_immunize.attacks.subject import Material
from hf_immunize.errors import InputError, InputTypeError

__all__ = ["VALIDATION_SHARE", "Budgets", "Draw", "Outcome", "Trial", "budget_rows", "judge", "split_rows"]

#: Share of the training rows that an attacker chooses by, and the most of them.
VALIDATION_SHARE, MOST_VALIDATION = 0.2, 1000
#: Fine-tuning is judged after every budget of steps, on at most these many validation rows.
MOST_VALIDATION_IMAGES = 200


@dataclass(frozen=True)
class Budgets:
    """What attackers may spend.

    Args:
        samples: harmful images a class to fit on, a quarter as many more to choose by; None is all that there are, a
            fifth of them to choose by.
        steps: optimizer steps of a probe.
        finetune_samples: images a class of a fine-tuning attacker.
        finetune_steps: its optimizer steps.
        seeds: of the split, the draw of the budget, the random weights beside the models, and all else that is random.

    Raises:
        ValueError: an empty or negative budget.
    """

    samples: tuple[int | None, ...] = (10, 100, None)
    steps: tuple[int, ...] = (10, 30, 100, 300, 1000)
    finetune_samples: tuple[int | None, ...] = (100,)
    finetune_steps: tuple[int, ...] = (10, 30, 100)
    seeds: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        for name in ("samples", "steps", "finetune_samples", "finetune_steps", "seeds"):
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)
            low = 0 if name == "seeds" else 1
            if not values or any(
                (value is None and "samples" not in name) or (value is not None and value < low) for value in values
            ):
                raise InputError(f"{name} must hold whole numbers of at least {low}, got {values!r}.")
        for name in ("samples", "steps", "finetune_samples", "finetune_steps"):
            # Ascending, and what there is last.
            found = sorted(set(getattr(self, name)), key=lambda one: float("inf") if one is None else one)
            object.__setattr__(self, name, tuple(found))
        object.__setattr__(self, "seeds", tuple(dict.fromkeys(self.seeds)))

    def of(self, attacker: Attacker) -> tuple[tuple[int | None, ...], tuple[int, ...]]:
        """Samples and steps of this attacker."""
        if attacker.kind == "probe":
            return self.samples, self.steps
        return self.finetune_samples, self.finetune_steps


@dataclass(frozen=True)
class Trial:
    """One setting that an attacker tried, stopped where its validation accuracy is highest: that, and on test rows."""

    setting: str
    validation: float
    accuracy: float


@dataclass(frozen=True)
class Outcome:
    """What an attacker reaches within a number of steps.

    Attributes:
        setting: the fit that it chose by validation accuracy.
        validation_accuracy: of that fit.
        correct: which test rows it gets right, (m,) of bool.
        trials: all settings within these steps, in the order tried; one that was dropped, as it was last seen.
    """

    setting: str
    validation_accuracy: float
    correct: torch.Tensor
    trials: tuple[Trial, ...] = ()

    @property
    def accuracy(self) -> float:
        """Share of the test rows that it gets right."""
        return float(self.correct.double().mean())


def split_rows(labels: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Training and validation rows: a fifth of each class, at least one where it has two, at most 1,000 in all."""
    generator = torch.Generator().manual_seed(seed)
    share = min(VALIDATION_SHARE, MOST_VALIDATION / len(labels))
    train, validation = [], []
    for one in labels.unique():
        rows = torch.nonzero(labels == one).flatten()
        rows = rows[torch.randperm(len(rows), generator=generator)]
        count = max(1, round(share * len(rows))) if len(rows) > 1 else 0
        validation.append(rows[:count])
        train.append(rows[count:])
    return torch.cat(train), torch.cat(validation)


def budget_rows(rows: torch.Tensor, labels: torch.Tensor, per_class: int | None) -> torch.Tensor:
    """The first ``per_class`` of ``rows`` of each class; all where a class has fewer."""
    if per_class is None:
        return rows
    return torch.cat([rows[labels[rows] == one][:per_class] for one in labels.unique()])


@dataclass(frozen=True)
class Draw:
    """The rows of one seed and one budget of samples: to fit on, and held out (validation first, then test).

    What attackers work out of the rows to fit on is kept in ``known`` for all of them.
    """

    rows: Any
    labels: torch.Tensor
    held: Any
    validation_labels: torch.Tensor
    known: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, material: Material, view: View, labels: torch.Tensor, *, per_class: int | None, seed: int) -> Draw:
        """Rows of a view, ``per_class`` of each class (None: all), drawn by the seed."""
        train, validation = split_rows(labels, seed)
        train = budget_rows(train, labels, per_class)
        if per_class is not None:
            # Few images to fit on are few to choose by too.
            fewer = max(1, round(per_class * VALIDATION_SHARE / (1 - VALIDATION_SHARE)))
            validation = budget_rows(validation, labels, fewer)
        if len(validation) == 0:
            raise InputError(
                "Every class has one training image alone, so that none is left for an attacker to choose its rate by. "
                "Give two images of a class or more."
            )
        rows, test = material.rows["train"], material.rows["test"]
        if view == "features":
            return cls(rows[train], labels[train], torch.cat([rows[validation], test.to(rows)]), labels[validation])
        generator = torch.Generator().manual_seed(seed)
        validation = validation[torch.randperm(len(validation), generator=generator)[:MOST_VALIDATION_IMAGES]]
        held: Dataset[Any] = ConcatDataset([Subset(rows, validation.tolist()), test])
        return cls(Subset(rows, train.tolist()), labels[train], held, labels[validation])


def judge(
    attacker: Attacker,
    draw: Draw,
    material: Material,
    test_labels: torch.Tensor,
    n_classes: int,
    *,
    steps: Sequence[int],
    seed: int,
    settings: Mapping[str, int] | None = None,
) -> dict[int, Outcome]:
    """Runs one attacker on one draw; what it reaches within each budget of steps.

    Args:
        attacker: whom.
        draw: its rows.
        material: of the model under attack.
        test_labels: of the test rows, (m,).
        n_classes: of the harmful task.
        steps: budgets, ascending.
        seed: of everything random in the attacker.
        settings: only these are tried, each up to its number of steps; None for all.

    Raises:
        ValueError: the attacker yields no fit within the smallest budget.
    """
    task = AttackTask(
        draw.rows,
        draw.labels,
        n_classes,
        _checkpoints(steps) if attacker.kind == "probe" else tuple(steps),
        seed,
        material.model,
        material.rows.get("primary") if attacker.needs_primary else None,
        settings,
        material.public if attacker.needs_public else None,
        draw.known,
    )
    n_validation = len(draw.validation_labels)
    fits: list[tuple[float, int, Outcome]] = []
    attack = attacker(task)
    if not isinstance(attack, Generator):
        raise InputTypeError(
            f"The attacker {attacker.name!r} returned {type(attack).__name__}; it must be a function that yields fits."
        )
    fit = next(attack, None)
    while fit is not None:
        guesses = _guesses(fit.scores(draw.held))
        found = float((guesses[:n_validation] == draw.validation_labels).double().mean())
        fits.append((found, fit.steps, Outcome(fit.setting, found, guesses[n_validation:] == test_labels)))
        try:
            fit = attack.send(found)
        except StopIteration:
            fit = None
    if not any(spent <= steps[0] for _, spent, _ in fits):
        raise InputError(
            f"The attacker {attacker.name!r} yielded no fit within {steps[0]} steps. It must yield one at every "
            "checkpoint of its task."
        )
    return {step: _chosen([one for one in fits if one[1] <= step]) for step in steps}


def _chosen(fits: Sequence[tuple[float, int, Outcome]]) -> Outcome:
    """The best by validation accuracy, of equals the earlier stop; and the best of each setting, as trials."""

    def best(among: Sequence[tuple[float, int, Outcome]]) -> Outcome:
        return max(among, key=lambda one: (one[0], -one[1]))[2]

    settings = dict.fromkeys(outcome.setting for _, _, outcome in fits)
    tried = [best([one for one in fits if one[2].setting == setting]) for setting in settings]
    trials = (Trial(one.setting, one.validation_accuracy, one.accuracy) for one in tried)
    return replace(best(fits), trials=tuple(trials))


def _checkpoints(steps: Sequence[int]) -> tuple[int, ...]:
    """The budgets and, for early stopping, points between them."""
    between = {round((low * high) ** 0.5) for low, high in itertools.pairwise(steps)}
    return tuple(sorted({max(1, steps[0] // 3), *between, *steps}))


def _guesses(scores: Any) -> torch.Tensor:
    scores = scores.detach().cpu()
    # A row whose scores are not finite is a miss: no class is −1.
    return torch.where(torch.isfinite(scores).all(1), scores.argmax(1), -1)
