"""The last stage, by how modules stand beside each other and when they run; of real ones in test_backbones.py."""

from __future__ import annotations

import pytest
import torch
from tiny import TinyBlock
from torch import nn

from hf_immunize.models.last_stage import last_stage

IMAGES = torch.randn(2, 3, 8, 8)


class Net(nn.Module):
    """Modules under the given names, one after another, then the mean over positions and a head."""

    def __init__(self, *, fc: nn.Module | None = None, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.order = list(parts)
        self.fc = nn.Linear(6, 3) if fc is None else fc

    def forward(self, pixel_values):
        for name in self.order:
            pixel_values = getattr(self, name)(pixel_values)
        return self.fc(pixel_values.mean((2, 3)))


class Other(TinyBlock):
    """A block of another class."""


class Body(nn.Module):
    """Blocks one level further down, and a layer behind them."""

    def __init__(self, count=3) -> None:
        super().__init__()
        self.blocks, self.norm = nn.Sequential(*blocks(count)), nn.BatchNorm2d(6)

    def forward(self, x):
        return self.norm(self.blocks(x))


def blocks(count):
    return [TinyBlock(6) for _ in range(count)]


def stem():
    return nn.Conv2d(3, 6, 1)


def layers():
    return nn.Sequential(nn.Conv2d(6, 6, 1), nn.ReLU())


def stages(count=3):
    return {f"layer{k + 1}": nn.Sequential(*blocks(2)) for k in range(count)}


#: What stands before the head → the modules that are the last stage.
NETS = {
    "a list": ({"blocks": nn.Sequential(*blocks(3))}, ["blocks.2", "fc"]),
    "lists of one family": (stages(), ["layer3", "fc"]),
    "a list of stages": (
        {"stages": nn.Sequential(*stages().values()), "norm": nn.BatchNorm2d(6)},
        ["stages.2", "norm", "fc"],
    ),
    "parts of one class": ({f"s{k}": one for k, one in enumerate(blocks(3))}, ["s2", "fc"]),
    "another class last": ({"a": TinyBlock(6), "b": TinyBlock(6), "c": Other(6)}, ["b", "c", "fc"]),
    "a layer last in the list": (
        {"features": nn.Sequential(*blocks(3), nn.BatchNorm2d(6))},
        ["features.2", "features.3", "fc"],
    ),
    "a deeper body behind a list": (
        {"second": nn.Sequential(nn.Conv2d(6, 6, 1), TinyBlock(6)), "body": Body()},
        ["body.blocks.2", "body.norm", "fc"],
    ),
    "a list inside what comes last": (
        {"blocks": nn.Sequential(*blocks(4)), "last": Body(1)},
        ["blocks.3", "last", "fc"],
    ),
    "lists of layers around the stages": (
        {"conv1": layers(), **stages(), "conv5": layers()},
        ["layer3", "conv5", "fc"],
    ),
    "lists of layers": ({"conv1": layers(), "conv2": layers()}, ["conv2", "fc"]),
    "no blocks": (
        {"features": nn.Sequential(nn.ReLU(), nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6))},
        ["features.1", "features.2", "fc"],
    ),
}


@pytest.mark.parametrize(("parts", "expected"), NETS.values(), ids=NETS)
def test_the_last_stage_is_the_last_block_and_all_behind_it(parts, expected):
    model = Net(stem=stem(), **parts)
    modules, chosen = last_stage(model, IMAGES)
    assert modules == expected
    assert chosen == {
        name for name, _ in model.named_parameters() if name.startswith(tuple(f"{one}." for one in expected))
    }


def test_it_is_told_by_when_modules_run_and_not_by_where_they_stand():
    model = Net(stem=stem(), **stages())
    model.order = ["stem", "layer3", "layer1", "layer2"]
    assert last_stage(model, IMAGES)[0] == ["layer2", "fc"]


def test_layers_whose_output_nobody_reads_are_left_out():
    class Unread(Net):
        def forward(self, pixel_values):
            maps = self.stages(self.stem(pixel_values))
            self.post_norm(maps)
            return self.fc(maps.mean((2, 3)))

    model = Unread(stem=stem(), stages=nn.Sequential(*stages().values()), post_norm=nn.BatchNorm2d(6))
    model.requires_grad_(False)
    modules, chosen = last_stage(model, IMAGES)
    assert modules == ["stages.2", "fc"]
    assert not any(name.startswith("post_norm") for name in chosen)
    assert not any(one.requires_grad or one.grad is not None for one in model.parameters())


def test_a_head_of_several_layers_is_no_sequence_of_blocks():
    mlp = nn.Sequential(nn.Sequential(nn.Linear(6, 5), nn.ReLU()), nn.Sequential(nn.Linear(5, 5)), nn.Linear(5, 3))
    assert last_stage(Net(stem=stem(), **stages(2), fc=mlp), IMAGES)[0] == ["layer2", "fc"]


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 3)),
        nn.Sequential(nn.Flatten(), nn.Linear(192, 3)),
    ],
    ids=["everything", "the head alone"],
)
def test_a_model_with_nothing_to_leave_frozen_says_so(model):
    with pytest.raises(ValueError, match=r"nothing before its last block.*trainable=\['[13]'"):
        last_stage(model, IMAGES)


def test_last_takes_parts_that_their_parent_uses_without_calling_them():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.attention = nn.LayerNorm(12), nn.MultiheadAttention(12, 2, batch_first=True)

        def forward(self, x):
            # The weights are asked for so that evaluation mode takes no other path.
            return x + self.attention(*[self.norm(x)] * 3)[0]

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Linear(3, 12)
            self.blocks = nn.ModuleList([Attends(), Attends()])
            self.head = nn.Linear(12, 3)

        def forward(self, pixel_values):
            x = self.stem(pixel_values.flatten(2).mT)
            for block in self.blocks:
                x = block(x)
            return self.head(x.mean(1))

    model = Net()
    _, chosen = last_stage(model, torch.randn(2, 3, 4, 4))
    assert chosen == {name for name, _ in model.named_parameters() if name.startswith(("blocks.1.", "head."))}
