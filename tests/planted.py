"""Planted features, planted models, and budgets that are soon spent."""

from __future__ import annotations

import torch
from tiny import Images, TinyNet
from torch import nn
from torch.utils.data import Dataset

from hf_immunize.attacks import ATTACKERS, Budgets
from hf_immunize.attacks.attacker import AttackTask
from hf_immunize.attacks.judging import Draw, judge
from hf_immunize.attacks.subject import Subject


def planted(n=1200, d=32, n_classes=4, size=0.45, seed=0):
    """Training and test rows: class means plus unit noise, float64."""
    generator = torch.Generator().manual_seed(seed)
    means = size * torch.randn(n_classes, d, generator=generator, dtype=torch.float64)
    labels = torch.randint(n_classes, (2 * n,), generator=generator)
    rows = means[labels] + torch.randn(2 * n, d, generator=generator, dtype=torch.float64)
    return rows[:n], labels[:n], rows[n:], labels[n:]


def fits_of(name, *, settings=None, answers=(), steps=(1, 2, 3)):
    """Settings and steps of the fits that a fine-tuning attacker yields, told the given validation accuracies."""
    torch.manual_seed(0)
    data = Images(24, n_classes=2)
    task = AttackTask(data, data.y, 2, steps, 0, lambda: TinyNet().eval(), data, settings)
    attack, found = ATTACKERS[name](task), []
    fit = next(attack)
    try:
        while True:
            found.append((fit.setting, fit.steps))
            fit = attack.send(answers[len(found) - 1] if len(found) <= len(answers) else 0.0)
    except StopIteration:
        return found


QUICK = Budgets((None,), (5, 20), (None,), (2, 6), seeds=(0, 1))
FINETUNING = [name for name, one in ATTACKERS.items() if one.kind == "fine-tuning"]


class Buried(Dataset):
    """Images (3, 8, 8) of which a few hidden directions tell the class, among 192 that tell nothing.

    A network that knows the directions needs few images; one that has lost them would need very many.

    Attributes:
        directions: orthonormal, the telling ones first, (192, 192).
    """

    def __init__(self, n: int, seed: int, n_classes: int = 8, noise: float = 0.15) -> None:
        self.labels = torch.arange(n) % n_classes
        self.directions = torch.linalg.qr(torch.randn(192, 192, generator=torch.Generator().manual_seed(0)))[0]
        sizes = torch.randn(n, 192, generator=torch.Generator().manual_seed(seed))
        sizes[:, :n_classes] *= noise
        sizes[torch.arange(n), self.labels] += 1.5
        self.images = (sizes @ self.directions.mT).reshape(n, 3, 8, 8)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.images[index], "labels": self.labels[index]}


class Stages(nn.Module):
    """Three layers and a head: the first reads the directions of :class:`Buried`, the others are as they are drawn."""

    def __init__(self, n_classes: int = 8) -> None:
        super().__init__()
        width = n_classes + 8
        self.blocks = nn.Sequential(
            nn.Sequential(nn.Flatten(), nn.Linear(192, width), nn.ReLU()),
            nn.Sequential(nn.Linear(width, width), nn.ReLU()),
            nn.Sequential(nn.Linear(width, 3 * width // 2), nn.ReLU()),
        )
        self.head = nn.Linear(3 * width // 2, n_classes)
        with torch.no_grad():
            self.first.weight[:n_classes] = Buried(1, 0, n_classes).directions[:, :n_classes].mT
            self.first.bias.zero_()

    @property
    def first(self):
        return self.blocks[0][1]

    @property
    def second(self):
        return self.blocks[1][0]

    @property
    def third(self):
        return self.blocks[2][0]

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(pixel_values))


class Gain(nn.Module):
    """A linear layer as a parameter of no usual layer, kept small, and a constant that makes up for that."""

    def __init__(self, layer: nn.Linear, gain: float = 1.0) -> None:
        super().__init__()
        self.weight, self.gain = nn.Parameter(layer.weight.detach() / gain), gain

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.gain * rows @ self.weight.mT


def reached(model, names, n_classes=8, noise=0.15, per_class=50, steps=(30, 100), **options):
    """Attacker → its accuracy on images of :class:`Buried` after the last of these steps."""
    train, test = Buried(per_class * n_classes, 1, n_classes, noise), Buried(20 * n_classes, 2, n_classes, noise)
    sets = {"train": train, "test": test, "primary": train}
    found = {}
    for one in (ATTACKERS[name] for name in names):
        material = Subject(model.eval(), sets, **options).material(one.view)
        draw = Draw.of(material, one.view, train.labels, per_class=None, seed=0)
        outcomes = judge(one, draw, material, test.labels, n_classes, steps=steps, seed=0)
        found[one.name] = float(outcomes[steps[-1]].correct.double().mean())
    return found


def rivals(found, name, *beside):
    """The best of the others."""
    return max(accuracy for other, accuracy in found.items() if other not in (name, *beside))
