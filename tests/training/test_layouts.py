"""Images and cached activations lie in memory as the model's convolutions are fast in."""

from __future__ import annotations

import torch
from tiny import Images
from torch import nn
from trainers import trainer

from hf_immunize.training.seeing import Architecture


class Viewing(nn.Module):
    """A network that cannot run in channels last: it takes its maps for rows as they lie."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.score = nn.Conv2d(3, 3, 3, groups=3), nn.Linear(3 * 6 * 6, 3)

    def forward(self, pixel_values):
        return self.score(self.conv(pixel_values).view(len(pixel_values), -1))


def depthwise(model):
    """The same network with one depthwise convolution."""
    model.blocks[0].conv = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False)
    return model


def test_images_lie_as_convolutions_are_fast_where_the_model_can_read_them_so(tmp_path, tiny_net, primary):
    seen = []
    tiny_net = depthwise(tiny_net)
    for model, conv in ((tiny_net, "stem"), (Viewing(), "conv")):
        run = trainer(tmp_path / conv, model, primary, Images(40, seed=5), trainable="all", max_steps=1)
        handle = model.get_submodule(conv).register_forward_pre_hook(lambda module, given: seen.append(given[0]))
        run.train()
        handle.remove()
        read = seen[-1]
        assert read.is_contiguous(memory_format=torch.channels_last) == (conv == "stem")
        assert all(one.is_contiguous() for one in model.parameters())


def test_cached_activations_lie_as_they_would_come_out_of_the_frozen_part(tmp_path, tiny_net, primary):
    seen = []
    tiny_net = depthwise(tiny_net)
    handle = tiny_net.blocks[-1].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    run = trainer(tmp_path, tiny_net, primary, Images(40, seed=5), cache_frozen="on", max_steps=1)
    run.train()
    handle.remove()
    assert "run once for each image" in run.notes[-1]
    assert seen[-1].shape[0] > 2
    assert seen[-1].is_contiguous(memory_format=torch.channels_last)


def test_no_layout_is_looked_for_where_a_batch_lies_on_another_device(tiny_net, primary):
    seen = Architecture(tiny_net, primary.x[:4])
    batch = {"pixel_values": torch.zeros(2, 3, 8, 8, device="meta")}
    assert seen.laid_out(batch)["pixel_values"] is batch["pixel_values"]
    # It takes a copy of the whole model.
    assert "layout" not in vars(seen)
    seen.laid_out({"pixel_values": primary.x[:2]})
    assert "layout" in vars(seen)
