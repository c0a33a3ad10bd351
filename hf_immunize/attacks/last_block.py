"""Attackers that train the last block alone, on activations that were made once."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from hf_immunize.attacks.attacker import AttackTask, Fits, attacker
from hf_immunize.attacks.finetune import Setting, batches_of, fine_tune, fresh, training_mode
from hf_immunize.models.head import features_and_logits
from hf_immunize.models.random_weights import draw_anew

__all__ = ["TAIL_GRID"]

TAIL_GRID = (
    *(Setting("SGD", rate) for rate in (0.01, 0.03, 0.1)),
    *(Setting("AdamW", rate) for rate in (3e-4, 1e-3, 3e-3)),
)
PRIMARY_STEPS, PRIMARY_RATE = 30, 1e-3


@attacker("last block", short="last-block", view="tail")
def last_block(task: AttackTask) -> Fits:
    """Fine-tuning of the last block and a new head."""
    yield from fine_tune(task, fresh(task), TAIL_GRID)


@attacker("last block, re-initialised", short="reinit", view="tail")
def reinitialised(task: AttackTask) -> Fits:
    """The last block's weights drawn anew, then fine-tuned with a new head: what training did to it is gone."""
    model = fresh(task)
    trained = {name.rpartition(".")[0] for name, one in model.named_parameters() if one.requires_grad}
    draw_anew((module for name, module in model.named_modules() if name in trained), task.seed)
    yield from fine_tune(task, model, TAIL_GRID)


@attacker("primary task first, then the last block", short="primary-first", view="tail", needs_primary=True)
def primary_first(task: AttackTask) -> Fits:
    """The last block trained on the primary task alone for 30 steps, then on the harmful task."""
    model = fresh(task)
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=PRIMARY_RATE)
    training_mode(model)
    device = next(model.parameters()).device
    for batch in batches_of(task.primary, PRIMARY_STEPS, task.seed, device):
        optimizer.zero_grad()
        F.cross_entropy(features_and_logits(model, batch)[1], batch["labels"]).backward()
        optimizer.step()
    yield from fine_tune(task, model, TAIL_GRID)
