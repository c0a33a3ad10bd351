"""Attackers that train every layer: all weights, or low-rank adapters."""

from __future__ import annotations

import torch
from torch import nn

from hf_immunize.attacks.attacker import AttackTask, Fits, attacker
from hf_immunize.attacks.finetune import Setting, fine_tune, fresh, sample_of
from hf_immunize.models.forward import unwrap
from hf_immunize.models.head import find_head
from hf_immunize.models.trainable import select_trainable

__all__ = ["SURVIVORS_WHOLE", "WHOLE_GRID", "far_rates"]

WHOLE_GRID = (
    Setting("SGD", 0.01, still=True),
    Setting("SGD", 0.1),
    Setting("AdamW", 3e-4, still=True),
    Setting("AdamW", 1e-3),
)
ADAPTER_GRID = (Setting("SGD", 0.01), Setting("SGD", 0.03), Setting("AdamW", 3e-4), Setting("AdamW", 1e-3))
#: Of all weights fewer settings go on, the costliest.
SURVIVORS_WHOLE = (2, 1)
LORA_RANK, HIGH_RANK = 8, 32
FAR_GRID = (
    Setting("SGD", 1e-4, still=True, head=0.1),
    Setting("SGD", 1.0, head=0.1),
    Setting("AdamW", 1e-6, still=True, head=3e-3),
    Setting("AdamW", 3e-2, head=3e-3),
)


@attacker("all weights", short="all-weights", view="images")
def all_weights(task: AttackTask) -> Fits:
    """Fine-tuning of every weight and a new head."""
    model = fresh(task)
    select_trainable(model, "all", sample_of(task, model))
    yield from fine_tune(task, model, WHOLE_GRID, SURVIVORS_WHOLE)


@attacker("LoRA", short="lora", view="images", requires=("peft", "attacks"))
def lora(task: AttackTask) -> Fits:
    """Low-rank adapters of rank 8 on every linear layer and ungrouped convolution (Hu et al., arXiv 2106.09685)."""
    yield from fine_tune(task, _with_adapters(task, fresh(task), LORA_RANK), ADAPTER_GRID)


@attacker("LoRA of rank 32", short="lora-32", view="images", requires=("peft", "attacks"), thorough=True)
def lora_32(task: AttackTask) -> Fits:
    """Low-rank adapters of rank 32 on every linear layer and ungrouped convolution."""
    yield from fine_tune(task, _with_adapters(task, fresh(task), HIGH_RANK), ADAPTER_GRID)


@attacker("LoRA, then a second", short="lora-twice", view="images", requires=("peft", "attacks"), thorough=True)
def lora_twice(task: AttackTask) -> Fits:
    """Adapters of rank 32, merged into the weights after the first budget of steps, and new ones (arXiv 2307.05695)."""

    def renewed(model: nn.Module) -> nn.Module:
        return _with_adapters(task, _merged(model), HIGH_RANK, seed=task.seed + 1)

    yield from fine_tune(task, _with_adapters(task, fresh(task), HIGH_RANK), ADAPTER_GRID, after_first=renewed)


@attacker("rates far from the usual", short="far-rates", view="images", thorough=True)
def far_rates(task: AttackTask) -> Fits:
    """Every weight at rates far below and above the usual ones, and a new head at a usual one."""
    model = fresh(task)
    select_trainable(model, "all", sample_of(task, model))
    yield from fine_tune(task, model, FAR_GRID, SURVIVORS_WHOLE)


def _with_adapters(task: AttackTask, model: nn.Module, rank: int, seed: int | None = None) -> nn.Module:
    from peft import LoraConfig, inject_adapter_in_model

    head = find_head(model, sample_of(task, model))
    targets = [
        name
        for name, module in unwrap(model).named_modules()
        if name not in head.names
        and (isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1))
    ]
    torch.manual_seed(task.seed if seed is None else seed)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)
    return inject_adapter_in_model(config, model)


def _merged(model: nn.Module) -> nn.Module:
    """The model with its adapters added to its weights."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            holder, _, own = name.rpartition(".")
            setattr(model.get_submodule(holder), own, module.get_base_layer())
    del model.peft_config
    return model
