"""Attackers that change the features: fine-tuning of the last block, of all weights, or of low-rank adapters.

Every one puts a new head for the harmful classes on the features, behind a batch normalisation without weights, and
tries each optimizer at two rates. After the first budgets of steps only the settings with the lowest training loss go
on, and with further seeds only the one that was chosen with the first.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from hf_immunize.attacks.attacker import AttackTask, Fit, attacker
from hf_immunize.backbones import features_and_logits, find_head, keep_still, select_trainable, unwrap
from hf_immunize.data import collate_images

__all__ = ["HarmfulClassifier"]

SETTINGS: dict[str, tuple[str, float]] = {
    f"{name}, rate {rate:g}": (name, rate)
    for name, rates in (("SGD", (1e-2, 1e-1)), ("AdamW", (3e-4, 3e-3)))
    for rate in rates
}
BATCH = 16
#: Settings that go on after the first and after the second budget of steps.
SURVIVORS = (2, 1)
LORA_RANK = 8
PRIMARY_STEPS, PRIMARY_RATE = 30, 1e-3


class HarmfulClassifier(nn.Module):
    """A backbone's features, batch-normalised, and a new linear head on them: model inputs → logits (n, classes)."""

    def __init__(self, backbone: nn.Module, n_features: int, n_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.norm = nn.BatchNorm1d(n_features, affine=False)
        self.head = nn.Linear(n_features, n_classes)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.head(self.norm(features_and_logits(self.backbone, batch)[0].float()))


@attacker("last block", view="tail")
def last_block(task: AttackTask) -> Iterator[Fit]:
    """Fine-tuning of the last block and a new head."""
    yield from _fine_tune(task, task.model())


@attacker("last block, re-initialised", view="tail")
def reinitialised(task: AttackTask) -> Iterator[Fit]:
    """The last block's weights drawn anew, then fine-tuned with a new head: what training did to it is gone."""
    model = task.model()
    torch.manual_seed(task.seed)
    trained = {name.rpartition(".")[0] for name, one in model.named_parameters() if one.requires_grad}
    for name, module in model.named_modules():
        if name in trained and hasattr(module, "reset_parameters"):
            module.reset_parameters()
    yield from _fine_tune(task, model)


@attacker("primary task first, then the last block", view="tail", needs_primary=True)
def primary_first(task: AttackTask) -> Iterator[Fit]:
    """The last block trained on the primary task alone for 30 steps, then on the harmful task."""
    model = task.model()
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=PRIMARY_RATE)
    _mode(model)
    device = next(model.parameters()).device
    for batch in _batches(task.primary, PRIMARY_STEPS, task.seed, device):
        optimizer.zero_grad()
        F.cross_entropy(features_and_logits(model, batch)[1], batch["labels"]).backward()
        optimizer.step()
    yield from _fine_tune(task, model)


@attacker("all weights", view="images")
def all_weights(task: AttackTask) -> Iterator[Fit]:
    """Fine-tuning of every weight and a new head."""
    model = task.model()
    select_trainable(model, "all", _sample(task, model))
    yield from _fine_tune(task, model)


@attacker("LoRA", view="images", requires=("peft", "attacks"))
def lora(task: AttackTask) -> Iterator[Fit]:
    """Low-rank adapters of rank 8 on every linear layer and ungrouped convolution (Hu et al., arXiv 2106.09685)."""
    from peft import LoraConfig, inject_adapter_in_model

    model = task.model()
    head = find_head(model, _sample(task, model))
    targets = [
        name
        for name, module in unwrap(model).named_modules()
        if name not in head.names
        and (isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1))
    ]
    torch.manual_seed(task.seed)
    config = LoraConfig(r=LORA_RANK, lora_alpha=2 * LORA_RANK, target_modules=targets)
    yield from _fine_tune(task, inject_adapter_in_model(config, model))


class _Run:
    """One setting: its own copy of the classifier, its optimizer, its place in the data, its latest loss."""

    def __init__(self, classifier: HarmfulClassifier, setting: str, task: AttackTask) -> None:
        self.classifier, self.setting = copy.deepcopy(classifier), setting
        name, rate = SETTINGS[setting]
        trained = [one for one in self.classifier.parameters() if one.requires_grad]
        if name == "SGD":
            self.optimizer: torch.optim.Optimizer = torch.optim.SGD(trained, lr=rate, momentum=0.9, nesterov=True)
        else:
            self.optimizer = torch.optim.AdamW(trained, lr=rate)
        self.device = next(self.classifier.parameters()).device
        self.batches = _batches(task.rows, task.checkpoints[-1], task.seed, self.device, task.labels)
        self.loss = float("inf")

    def advance(self, steps: int) -> None:
        _mode(self.classifier.backbone)
        self.classifier.norm.train()
        losses = []
        for _ in range(steps):
            batch = next(self.batches)
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.classifier(batch), batch["labels"])
            loss.backward()
            nn.utils.clip_grad_norm_(self.classifier.parameters(), 1.0)
            self.optimizer.step()
            losses.append(float(loss.detach()))
        last = losses[-max(1, len(losses) // 2) :]
        self.loss = sum(last) / len(last)

    @torch.no_grad()
    def scores(self, held: Any) -> torch.Tensor:
        self.classifier.eval()
        loader = DataLoader(held, batch_size=128, collate_fn=collate_images)
        return torch.cat([self.classifier(_on(batch, self.device)).cpu() for batch in loader])


def _fine_tune(task: AttackTask, model: nn.Module) -> Iterator[Fit]:
    sample = _sample(task, model)
    with torch.no_grad():
        n_features = features_and_logits(model, sample)[0].shape[1]
    torch.manual_seed(task.seed)
    device = next(model.parameters()).device
    classifier = HarmfulClassifier(model, n_features, task.n_classes).to(device)
    runs = [_Run(classifier, one, task) for one in SETTINGS if task.settings is None or one in task.settings]
    done = 0
    for position, step in enumerate(task.checkpoints):
        for run in runs:
            run.advance(step - done)
            yield Fit(run.setting, step, run.scores)
        done = step
        left = SURVIVORS[min(position, len(SURVIVORS) - 1)]
        # A loss that is not a number compares with nothing; it goes last.
        runs = sorted(runs, key=lambda run: run.loss if run.loss == run.loss else float("inf"))[:left]


def _mode(model: nn.Module) -> None:
    """What trains in training mode, its batch statistics too; what is frozen stands still."""
    model.train()
    moving = [
        module
        for module in model.modules()
        if any(one.requires_grad for one in module.parameters(recurse=False))
        and isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    keep_still(model)
    for module in moving:
        module.training = True


def _batches(
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
        yield _on(batch, device)


def _on(batch: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    return {name: value.to(device) for name, value in batch.items()}


def _sample(task: AttackTask, model: nn.Module) -> dict[str, torch.Tensor]:
    batch = collate_images([task.rows[index] for index in range(min(2, len(task.rows)))])
    return _on(batch, next(model.parameters()).device)
