"""Accuracies of outcomes and of bootstrap resamples of their test rows, the same rows for every attacker and model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch

from hf_immunize.attacks.judging import Outcome

__all__ = ["RESAMPLES", "Accuracy", "Key", "Outcomes", "Resampled", "interval"]

RESAMPLES = 1000
#: Attacker, model, samples a class, steps.
Key = tuple[str, str, int | None, int]
#: One outcome a seed.
Outcomes = Mapping[Key, Sequence[Outcome]]


class Accuracy(NamedTuple):
    """An accuracy: of which attacker, its mean over seeds and test rows, and one of each resample, (1000,)."""

    attacker: str
    mean: float
    draws: torch.Tensor


class Resampled:
    """Mean accuracies over seeds, and those of 1,000 resamples of the test rows drawn by one fixed seed.

    Args:
        outcomes: of all attackers and models, judged by the same test rows.
    """

    def __init__(self, outcomes: Outcomes) -> None:
        curves = {key: torch.stack([one.correct.double() for one in seeds]).mean(0) for key, seeds in outcomes.items()}
        m = len(next(iter(curves.values())))
        picked = torch.randint(m, (RESAMPLES, m), generator=torch.Generator().manual_seed(0))
        counts = torch.zeros(RESAMPLES, m, dtype=torch.float64).scatter_add_(
            1, picked, torch.ones(RESAMPLES, m, dtype=torch.float64)
        )
        draws = (counts @ torch.stack(list(curves.values()), 1) / m).unbind(1)
        self._found = {
            key: Accuracy(key[0], float(curve.mean()), one)
            for (key, curve), one in zip(curves.items(), draws, strict=True)
        }
        self.models = {key[1] for key in curves}

    def of(self, attacker: str, model: str, count: int | None, steps: int) -> Accuracy:
        """Of one attacker on one model at one budget."""
        return self._found[attacker, model, count, steps]

    def strongest(self, attackers: Iterable[str], model: str, count: int | None, steps: int) -> Accuracy:
        """The attacker of the highest mean; in each resample the highest, which may be another's there."""
        found = [self.of(name, model, count, steps) for name in attackers]
        best = max(found, key=lambda one: one.mean)
        return best._replace(draws=torch.stack([one.draws for one in found]).amax(0))


def interval(draws: torch.Tensor) -> dict[str, float]:
    """The ends of the 95 % interval of resamples, ``low`` and ``high``."""
    low, high = torch.quantile(draws, torch.tensor([0.025, 0.975], dtype=draws.dtype)).tolist()
    return {"low": low, "high": high}
