"""How attackers fine-tune, whatever they train.

Every one puts a new head for the harmful classes on the features, behind a batch normalisation without weights, and
tries SGD and AdamW at several rates. After the first budgets of steps only the settings with the best validation
accuracy so far go on; with further seeds those run which were chosen with the first, each up to the last budget that
chose it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from hf_immunize.attacks.attacker import AttackTask, Fit, Fits
from hf_immunize.data.collate import collate_images, on_device
from hf_immunize.data.streams import first_samples
from hf_immunize.models.copies import copied
from hf_immunize.models.forward import fast_layout
from hf_immunize.models.head import features_and_logits
from hf_immunize.models.trainable import keep_still

__all__ = [
    "SURVIVORS",
    "HarmfulClassifier",
    "Setting",
    "batches_of",
    "fine_tune",
    "fresh",
    "sample_of",
    "training_mode",
]


@dataclass(frozen=True)
class Setting:
    """An optimizer and its rate.

    Attributes:
        optimizer: ``SGD``, with Nesterov momentum 0.9, or ``AdamW``.
        rate: its learning rate.
        still: trained BatchNorms keep their running statistics. A pretrained model is fitted sooner with them, random
            weights only without.
        head: rate of the new head, where it is another one.
    """

    optimizer: str
    rate: float
    still: bool = False
    head: float | None = None


BATCH = 16
#: Settings that go on after the first and after the second budget of steps.
SURVIVORS = (3, 1)
#: Where more steps than this are allowed two settings go on to the end: what is ahead early need not be ahead late.
LONG = 100
EVAL_BATCH = 32


class HarmfulClassifier(nn.Module):
    """A backbone's features, batch-normalised, and a new linear head on them: model inputs → logits (n, classes)."""

    def __init__(self, backbone: nn.Module, n_features: int, n_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.norm = nn.BatchNorm1d(n_features, affine=False)
        self.head = nn.Linear(n_features, n_classes)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.head(self.norm(features_and_logits(self.backbone, batch)[0].float()))


def fresh(task: AttackTask) -> nn.Module:
    """A copy of the model to train, which every view but ``features`` has."""
    assert task.model is not None
    return task.model()


class _Run:
    """One setting: its own copy of the classifier, its optimizer, its place in the data, its validation accuracy."""

    def __init__(self, classifier: HarmfulClassifier, name: str, setting: Setting, task: AttackTask) -> None:
        self.classifier, self.name, self.setting = copied(classifier), name, setting
        self.still = setting.still and bool(_trained_norms(classifier))
        self.optimizer = self._optimizer()
        self.device = next(self.classifier.parameters()).device
        self.batches = batches_of(task.rows, task.checkpoints[-1], task.seed, self.device, task.labels)
        self.accuracy = 0.0

    def _optimizer(self) -> torch.optim.Optimizer:
        rate, head = self.setting.rate, self.setting.head
        backbone = [one for one in self.classifier.backbone.parameters() if one.requires_grad]
        groups = [
            {"params": backbone, "lr": rate},
            {"params": list(self.classifier.head.parameters()), "lr": rate if head is None else head},
        ]
        if self.setting.optimizer == "SGD":
            return torch.optim.SGD(groups, momentum=0.9, nesterov=True, fused=True)
        return torch.optim.AdamW(groups, fused=True)

    def go_on_with(self, changed: Callable[[nn.Module], nn.Module]) -> None:
        """Another backbone, made of this one, and an optimizer that knows nothing yet."""
        self.classifier.backbone = changed(self.classifier.backbone)
        self.optimizer = self._optimizer()

    def advance(self, steps: int) -> None:
        training_mode(self.classifier.backbone, self.still)
        self.classifier.norm.train()
        for _ in range(steps):
            batch = next(self.batches)
            self.optimizer.zero_grad()
            F.cross_entropy(self.classifier(batch), batch["labels"]).backward()
            nn.utils.clip_grad_norm_(self.classifier.parameters(), 1.0)
            self.optimizer.step()

    @torch.no_grad()
    def scores(self, held: Any) -> torch.Tensor:
        self.classifier.eval()
        loader = DataLoader(held, batch_size=EVAL_BATCH, collate_fn=collate_images)
        return torch.cat([self.classifier(on_device(batch, self.device)).cpu() for batch in loader])


def fine_tune(
    task: AttackTask,
    starts: nn.Module | Mapping[str, nn.Module],
    grid: Sequence[Setting],
    survivors: tuple[int, int] = SURVIVORS,
    after_first: Callable[[nn.Module], nn.Module] | None = None,
) -> Fits:
    """Fits of what of a model trains, by every setting.

    Args:
        task: of which data, steps and seed are taken.
        starts: the model to train, or several by name; settings have a copy each.
        grid: the settings.
        survivors: how many of them go on after the first and after the second budget of steps.
        after_first: what is made of the backbone after the first budget of steps, with a new optimizer.
    """
    chosen, runs = task.settings, []
    for start, model in ({"": starts} if isinstance(starts, nn.Module) else starts).items():
        classifier = _classifier(task, model)
        moving = bool(_trained_norms(model))
        for one in grid:
            name = f"{start}, " if start else ""
            name += f"{one.optimizer}, rate {one.rate:g}" + (", BatchNorm still" if one.still and moving else "")
            if chosen is None or name in chosen:
                runs.append(_Run(classifier, name, one, task))
    least = 2 if task.checkpoints[-1] > LONG else 1
    done = 0
    for position, step in enumerate(task.checkpoints):
        if chosen is not None:
            runs = [run for run in runs if chosen[run.name] >= step]
        for run in runs:
            run.advance(step - done)
            # A plain loop over the fits tells nothing: then they go on in their order.
            run.accuracy = (yield Fit(run.name, step, run.scores)) or 0.0
        done = step
        if chosen is None:
            runs = _best(runs, max(least, survivors[min(position, len(survivors) - 1)]))
        if after_first is not None and position == 0:
            for run in runs:
                run.go_on_with(after_first)


def _classifier(task: AttackTask, model: nn.Module) -> HarmfulClassifier:
    sample = sample_of(task, model)
    with torch.no_grad():
        n_features = features_and_logits(model, sample)[0].shape[1]
    torch.manual_seed(task.seed)
    device = next(model.parameters()).device
    classifier = HarmfulClassifier(model, n_features, task.n_classes).to(device)
    return classifier.to(memory_format=fast_layout(classifier, lambda one: one(sample)))


def _best(runs: list[_Run], count: int) -> list[_Run]:
    """The ``count`` runs of the highest validation accuracy, and at least the best with BatchNorm still and without."""
    ranked = sorted(runs, key=lambda run: -run.accuracy)
    kept = [next(run for run in ranked if run.still == still) for still in {run.still for run in ranked}]
    rest = [run for run in ranked if run not in kept]
    return sorted(kept + rest[: max(0, count - len(kept))], key=ranked.index)


def _trained_norms(model: nn.Module) -> list[nn.Module]:
    return [
        module
        for module in model.modules()
        if any(one.requires_grad for one in module.parameters(recurse=False))
        and isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]


def training_mode(model: nn.Module, still: bool = False) -> None:
    """What trains in training mode, its batch statistics too unless ``still``; what is frozen stands still."""
    model.train()
    keep_still(model)
    if not still:
        for module in _trained_norms(model):
            module.training = True


def batches_of(
    data: Any, steps: int, seed: int, device: torch.device, labels: torch.Tensor | None = None
) -> Iterator[dict[str, torch.Tensor]]:
    """Batches in epochs drawn by the seed; the labels are the given ones or the data's own."""
    generator = torch.Generator().manual_seed(seed)
    size = min(BATCH, len(data))
    order: list[torch.Tensor] = []
    for _ in range(steps):
        if not order:
            # Whole batches alone: batch normalisation needs more than one row.
            order = [part for part in torch.randperm(len(data), generator=generator).split(size) if len(part) == size]
        picked = order.pop()
        batch = collate_images([data[index] for index in picked.tolist()])
        if labels is not None:
            batch["labels"] = labels[picked]
        yield on_device(batch, device)


def sample_of(task: AttackTask, model: nn.Module, most: int = 2) -> dict[str, torch.Tensor]:
    """The first rows of the task, ``most`` of them, as a batch on the model's device."""
    return on_device(collate_images(first_samples(task.rows, most)), next(model.parameters()).device)
