"""Random weights forget everything and keep the shape."""

from __future__ import annotations

import pytest
import torch
from samples import tiny_timm, tiny_vit
from tiny import TinyNet
from torch import nn

from hf_immunize.models.random_weights import draw_anew, random_weights


def test_random_weights_forget_everything_and_keep_the_shape():
    for model in (TinyNet(), tiny_timm("test_vit"), tiny_vit()[0]):
        fresh = random_weights(
            model, [{"pixel_values": torch.randn(8, 3, 32, 32)}] if isinstance(model, TinyNet) else ()
        )
        for (name, old), new in zip(model.named_parameters(), fresh.parameters(), strict=True):
            assert old.shape == new.shape
            if old.numel() > 1 and old.std() > 0:
                assert not torch.equal(old, new), name
        again = random_weights(model, ())
        assert all(torch.equal(*pair) for pair in zip(fresh.parameters(), again.parameters(), strict=True))
        assert not fresh.training
    norm = random_weights(TinyNet(), [{"pixel_values": 5 + torch.randn(16, 3, 8, 8)}]).blocks[0].norm
    assert not torch.allclose(norm.running_var, torch.ones(12), rtol=0.05)


@pytest.mark.parametrize("draw", [random_weights, lambda model: draw_anew(model.modules(), 4)])
def test_who_draws_weights_gives_the_generators_of_the_caller_back(monkeypatch, draw):
    model = TinyNet()
    states = {0: "of a GPU"}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: states[device])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: states.update({device: state}))
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: states.update({0: seed}))
    torch.default_generator.manual_seed(1)
    wanted = torch.rand(3)
    torch.default_generator.manual_seed(1)
    draw(model)
    assert torch.equal(torch.rand(3), wanted)
    assert states == {0: "of a GPU"}


def test_modules_draw_one_after_the_other_and_those_without_a_rule_stay_or_are_shuffled():
    bare = nn.ParameterList([torch.arange(6.0)])
    layers = [nn.Linear(4, 3), bare, nn.Linear(4, 3)]
    draw_anew(layers, 4)
    again = [nn.Linear(4, 3), nn.Linear(4, 3)]
    draw_anew(again, 4)
    assert all(torch.equal(one.weight, other.weight) for one, other in zip(layers[::2], again, strict=True))
    assert not torch.equal(again[0].weight, again[1].weight)
    assert bare[0].tolist() == list(range(6))
    draw_anew([bare], 4, shuffle=True)
    assert bare[0].tolist() != sorted(bare[0].tolist()) == list(range(6))
