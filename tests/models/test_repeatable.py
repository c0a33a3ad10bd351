"""Features of a picture are its own, in every pass and beside whatever other pictures."""

from __future__ import annotations

import pytest
import torch
from tiny import Images, TinyNet
from torch import nn
from transformers import ViTMAEConfig, ViTMAEModel

from hf_immunize import evaluate_immunization, run_attacks
from hf_immunize.models.pooled import PooledClassifier
from hf_immunize.models.repeatable import check_repeatable


def of_the_batch():
    model = TinyNet()
    for block in model.blocks:
        block.norm = nn.BatchNorm2d(12, track_running_stats=False)
    return model.eval()


def test_models_that_are_repeatable_stay_as_they_are(tiny_net):
    tiny_net.train()
    before, numbers = {name: one.clone() for name, one in tiny_net.state_dict().items()}, torch.get_rng_state()
    check_repeatable(tiny_net, Images(2).x)
    check_repeatable(tiny_net, {"pixel_values": Images(1).x, "labels": torch.zeros(1, dtype=torch.long)})
    assert tiny_net.training
    assert torch.equal(torch.get_rng_state(), numbers)
    assert all(torch.equal(one, before[name]) for name, one in tiny_net.state_dict().items())


def test_masks_that_are_drawn_in_evaluation_are_refused():
    config = ViTMAEConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        decoder_hidden_size=8,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=8,
        image_size=32,
        patch_size=8,
    )
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="other features for the same pictures in a second pass"):
        check_repeatable(PooledClassifier(ViTMAEModel(config), 16, 3).eval(), torch.randn(2, 3, 32, 32))


def test_a_norm_over_the_batch_is_refused_wherever_it_would_be_measured():
    model, base, data = of_the_batch(), of_the_batch(), Images(24)
    for refused in (
        lambda: check_repeatable(model, data.x[:2]),
        lambda: evaluate_immunization(model, base, data, Images(24, seed=1)),
        lambda: run_attacks(model, base, data, Images(24, seed=1)),
    ):
        with pytest.raises(ValueError, match="beside other pictures, in evaluation mode: BatchNorm without"):
            refused()


class Rounding(nn.Module):
    """What a deep network may make of rounding in float32, which is another one in a batch of another size."""

    def forward(self, maps):
        return maps * (1 + 0.01 * len(maps)) if maps.dtype == torch.float32 else maps


def test_rounding_that_a_deep_network_makes_much_of_is_no_reason_to_refuse(tiny_net):
    tiny_net.blocks[1] = nn.Sequential(tiny_net.blocks[1], Rounding())
    check_repeatable(tiny_net.eval(), Images(2).x)
    assert next(tiny_net.parameters()).dtype == torch.float32
