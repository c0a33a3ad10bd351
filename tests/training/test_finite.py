"""Losses and gradients that are no longer finite stop a run, and say where."""

from __future__ import annotations

import pytest
import torch
from tiny import TinyNet
from torch import nn
from trainers import trainer

from hf_immunize import NonFiniteLossError


class Exploding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = TinyNet()
        self.fuse = 3

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.fuse -= 1
        return self.inner(pixel_values * (float("nan") if self.training and self.fuse < 0 else 1.0))


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path, primary, harmful):
    model = Exploding()
    run = trainer(
        tmp_path, model, primary, harmful, save_strategy="steps", save_steps=2, lambda_primary=0.25, lambda_harmful=0.5
    )
    with pytest.raises(NonFiniteLossError, match=r"Step 4: .*λ_primary = 0\.25, λ_harmful = 0\.5.*resume") as raised:
        run.train()
    assert "learning rate" in str(raised.value)
    assert (tmp_path / "checkpoint-2" / "model.safetensors").exists()
    assert not (tmp_path / "checkpoint-4").exists()


def test_bf16_training_stays_finite(tmp_path, tiny_net, primary, harmful):
    run = trainer(tmp_path, tiny_net, primary, harmful, bf16=True)
    run.train()
    assert all(value.isfinite().all() for value in tiny_net.state_dict().values())
    assert run.state.log_history[-1]["train_loss"] > 0
