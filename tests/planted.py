"""Planted features, and budgets that are soon spent."""

from __future__ import annotations

import torch
from tiny import Images, TinyNet

from hf_immunize.attacks import ATTACKERS, Budgets
from hf_immunize.attacks.attacker import AttackTask


def planted(n=1200, d=32, n_classes=4, size=0.45, seed=0):
    """Training and test rows: class means plus unit noise, float64."""
    generator = torch.Generator().manual_seed(seed)
    means = size * torch.randn(n_classes, d, generator=generator, dtype=torch.float64)
    labels = torch.randint(n_classes, (2 * n,), generator=generator)
    rows = means[labels] + torch.randn(2 * n, d, generator=generator, dtype=torch.float64)
    return rows[:n], labels[:n], rows[n:], labels[n:]


def fits_of(name, *, settings=None, answers=()):
    """Settings and steps of the fits that a fine-tuning attacker yields, told the given validation accuracies."""
    torch.manual_seed(0)
    data = Images(24, n_classes=2)
    task = AttackTask(data, data.y, 2, (1, 2, 3), 0, lambda: TinyNet().eval(), data, settings)
    attack, found = ATTACKERS[name](task), []
    fit = next(attack)
    try:
        while True:
            found.append((fit.setting, fit.steps))
            fit = attack.send(answers[len(found) - 1] if len(found) <= len(answers) else 0.0)
    except StopIteration:
        return found


QUICK = Budgets((None,), (5, 20), (None,), (2, 6), seeds=(0, 1))
