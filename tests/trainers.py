"""A short training on tiny images."""

from __future__ import annotations

import torch
from transformers import ViTConfig, ViTForImageClassification

from hf_immunize import ImmunizationArguments, ImmunizationTrainer


def arguments(folder, **changes):
    values = {
        "output_dir": str(folder),
        "max_steps": 6,
        "warmup_steps": 0,
        "per_device_train_batch_size": 16,
        "learning_rate": 1e-2,
        "optim": "sgd",
        "lambda_harmful": 1.0,
        "use_cpu": True,
        "report_to": "none",
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "rir_group_size": 10,
        "rir_groups": 4,
        "dataloader_pin_memory": False,
    }
    return ImmunizationArguments(**(values | changes))


def trainer(folder, model, primary, harmful, **changes):
    return ImmunizationTrainer(
        model, arguments(folder, **changes), train_dataset=primary, harmful_dataset=harmful, eval_dataset=primary
    )


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def tiny_vit():
    torch.manual_seed(0)
    return ViTForImageClassification(
        ViTConfig(
            image_size=8,
            patch_size=4,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            num_labels=3,
        )
    )
