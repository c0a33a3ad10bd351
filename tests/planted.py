"""Planted features, and budgets that are soon spent."""

from __future__ import annotations

import torch

from hf_immunize.attacks import Budgets


def planted(n=1200, d=32, n_classes=4, size=0.45, seed=0):
    """Training and test rows: class means plus unit noise, float64."""
    generator = torch.Generator().manual_seed(seed)
    means = size * torch.randn(n_classes, d, generator=generator, dtype=torch.float64)
    labels = torch.randint(n_classes, (2 * n,), generator=generator)
    rows = means[labels] + torch.randn(2 * n, d, generator=generator, dtype=torch.float64)
    return rows[:n], labels[:n], rows[n:], labels[n:]


QUICK = Budgets((None,), (5, 20), (None,), (2, 6), seeds=(0, 1))
