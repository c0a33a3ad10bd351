"""Attackers that train every layer: all weights, or low-rank adapters."""

from __future__ import annotations

import torch
from torch import nn

from hf_immunize.attacks.attacker import AttackTask, Fits, attacker
from hf_immunize.attacks.finetune import Setting, fine_tune, fresh, sample_of
from hf_immunize.models.forward import unwrap
from hf_immunize.models.head import find_head
from hf_immunize.models.trainable import select_trainable

__all__ = ["WHOLE_GRID"]

WHOLE_GRID = (
    Setting("SGD", 0.01, still=True),
    Setting("SGD", 0.1),
    Setting("AdamW", 3e-4, still=True),
    Setting("AdamW", 1e-3),
)
ADAPTER_GRID = (Setting("SGD", 0.01), Setting("SGD", 0.03), Setting("AdamW", 3e-4), Setting("AdamW", 1e-3))
#: Of all weights fewer settings go on, the costliest.
SURVIVORS_WHOLE = (2, 1)
LORA_RANK = 8


@attacker("all weights", short="all-weights", view="images")
def all_weights(task: AttackTask) -> Fits:
    """Fine-tuning of every weight and a new head."""
    model = fresh(task)
    select_trainable(model, "all", sample_of(task, model))
    yield from fine_tune(task, model, WHOLE_GRID, SURVIVORS_WHOLE)


@attacker("LoRA", short="lora", view="images", requires=("peft", "attacks"))
def lora(task: AttackTask) -> Fits:
    """Low-rank adapters of rank 8 on every linear layer and ungrouped convolution (Hu et al., arXiv 2106.09685)."""
    from peft import LoraConfig, inject_adapter_in_model

    model = fresh(task)
    head = find_head(model, sample_of(task, model))
    targets = [
        name
        for name, module in unwrap(model).named_modules()
        if name not in head.names
        and (isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1))
    ]
    torch.manual_seed(task.seed)
    config = LoraConfig(r=LORA_RANK, lora_alpha=2 * LORA_RANK, target_modules=targets)
    yield from fine_tune(task, inject_adapter_in_model(config, model), ADAPTER_GRID)
