"""Random weights forget everything and keep the shape."""

from __future__ import annotations

import torch
from samples import tiny_timm, tiny_vit
from tiny import TinyNet

from hf_immunize.models.random_weights import random_weights


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
