"""Best so far over trials: what an attacker holds after each setting, and so whether a longer search may find more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from hf_immunize.attacks.attacker import Attacker
from hf_immunize.attacks.judging import Budgets
from hf_immunize.attacks.resampling import Outcomes

__all__ = ["best_so_far"]


def best_so_far(
    outcomes: Outcomes, attackers: Sequence[Attacker], budgets: Budgets, models: Iterable[str]
) -> dict[str, Any]:
    """For each kind, model and budget of steps, the settings at which the best validation accuracy so far rose.

    A trial is one setting of one attacker (optimizer, rate, BatchNorm still or moving), in the order tried, with the
    first seed, which alone tries all, and the largest budget of samples. Whoever searches holds the setting of the
    highest validation accuracy, the earlier one of equals; its test accuracy is what the search has come to. A setting
    that was dropped at a smaller budget of steps counts with its last accuracy. The end of a search may stand below the
    worst case, which takes the strongest attacker by test rows.

    Returns:
        kind → model → steps → ``tried``, the number of settings, and ``improvements``: ``trial`` (counted from 1),
        ``attacker``, ``setting``, ``validation`` and ``accuracy`` on the test rows.
    """
    found: dict[str, Any] = {}
    for kind in dict.fromkeys(one.kind for one in attackers):
        own = [one for one in attackers if one.kind == kind]
        samples, steps = budgets.of(own[0])
        found[kind] = {
            model: {str(step): _search(outcomes, own, model, samples[-1], step) for step in steps} for model in models
        }
    return found


def _search(
    outcomes: Outcomes, attackers: Sequence[Attacker], model: str, count: int | None, step: int
) -> dict[str, Any]:
    trials = [(one.name, trial) for one in attackers for trial in outcomes[one.name, model, count, step][0].trials]
    improvements: list[dict[str, Any]] = []
    for number, (name, trial) in enumerate(trials, 1):
        if not improvements or trial.validation > improvements[-1]["validation"]:
            accuracies = {"validation": trial.validation, "accuracy": trial.accuracy}
            improvements.append({"trial": number, "attacker": name, "setting": trial.setting} | accuracies)
    return {"tried": len(trials), "improvements": improvements}
