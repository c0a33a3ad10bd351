"""Before every suite, each attacker on a task that it must solve: a broken attacker must not look like a defence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.data import Dataset

from hf_immunize.attacks.attacker import Attacker
from hf_immunize.attacks.judging import Draw, judge
from hf_immunize.attacks.subject import Subject
from hf_immunize.data.random_numbers import undisturbed_random_numbers
from hf_immunize.errors import UserError

__all__ = ["BrokenAttackerError", "self_check"]

#: What an attacker must reach on classes that every fit of its kind tells apart.
REQUIRED = 0.9
PROBE_STEPS, FINETUNE_STEPS = (100,), (30, 60)


class BrokenAttackerError(UserError, RuntimeError):
    """An attacker fails where success is known, so its failure on a model would mean nothing."""


class _Planted(Dataset):
    """Images (3, 8, 8) of three classes, each a direction of its own with a little noise."""

    def __init__(self, n: int, seed: int) -> None:
        self.labels = torch.arange(n) % 3
        means = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        noise = torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
        self.images = means[self.labels] + 0.3 * noise

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.images[index], "labels": self.labels[index]}


class _Network(nn.Module):
    """Two blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU()), nn.Sequential(nn.Linear(32, 32), nn.ReLU())
        )
        self.head = nn.Linear(32, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(images))


def self_check(attackers: Sequence[Attacker]) -> None:
    """Runs every attacker on planted images.

    Raises:
        BrokenAttackerError: one of them stays below 90 % there.
    """
    with undisturbed_random_numbers(seed=0):
        train, test = _Planted(150, 1), _Planted(60, 2)
        model, public = _Network().eval(), _Network().eval()
        subject = Subject(model, {"train": train, "test": test, "primary": train}, public=public)
        for one in attackers:
            steps = PROBE_STEPS if one.kind == "probe" else FINETUNE_STEPS
            material = subject.material(one.view)
            draw = Draw.of(material, one.view, train.labels, per_class=None, seed=0)
            found = judge(one, draw, material, test.labels, 3, steps=steps, seed=0)
            accuracy = found[steps[-1]].accuracy
            if accuracy < REQUIRED:
                raise BrokenAttackerError(
                    f"The attacker {one.name!r} reaches {100 * accuracy:.0f} % on a planted task that it must solve "
                    f"({100 * REQUIRED:.0f} % or more). It is broken (a rate of 0?), and its failure on a model would "
                    "look like a defence. Mend it or leave it out."
                )
