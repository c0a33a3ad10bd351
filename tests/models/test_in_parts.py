"""Large batches on a CPU run a few images at a time, and come out as one."""

from __future__ import annotations

import pytest
import timm
import torch
from tiny import TinyNet
from torch import nn
from torch.utils.data import Dataset

from hf_immunize import features_and_logits
from hf_immunize.models.extraction import extract_features
from hf_immunize.models.frozen_prefix import FrozenPrefix
from hf_immunize.models.in_parts import MOST_BYTES, in_parts
from hf_immunize.models.trainable import select_trainable


@pytest.mark.parametrize(("n", "side"), [(1, 8), (64, 64), (20, 224), (3, 1024), (9, 224)])
def test_every_row_is_in_one_part_in_order(n, side):
    images, labels = torch.arange(n).float()[:, None, None, None].expand(n, 3, side, side), torch.arange(n)
    given = {
        "pixel_values": images,
        "labels": labels,
        "scale": torch.tensor(2.0),
        "size": torch.ones(n + 1),
        "on": True,
    }
    parts = list(in_parts(given))
    assert torch.equal(torch.cat([one["labels"] for one in parts]), labels)
    assert torch.equal(torch.cat([one["pixel_values"][:, 0, 0, 0] for one in parts]), labels.float())
    for one in parts:
        # What has no row an image belongs to each part.
        assert [one[name] is given[name] for name in ("scale", "size", "on")] == [True] * 3
        assert len(one["labels"]) == len(one["pixel_values"])
        assert len(one["labels"]) == 1 or one["pixel_values"].numel() * 4 <= MOST_BYTES
    assert len(parts) == 1 or n * 3 * side * side * 4 > MOST_BYTES


def test_batches_without_images_stay_whole():
    assert list(in_parts({})) == [{}]
    assert list(in_parts({"on": True})) == [{"on": True}]
    assert len(list(in_parts({"pixel_values": torch.empty(0, 3, 224, 224)}))) == 1


class Large(Dataset):
    def __len__(self):
        return 21

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return {"pixel_values": torch.randn(3, 224, 224, generator=generator), "labels": index % 4}


class Sizes(nn.Module):
    """Notes how many rows came at a time."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(len(x))
        return x


def test_extraction_of_large_images_is_that_of_each_image():
    model = TinyNet().eval()
    model.stem = nn.Sequential(sizes := Sizes(), model.stem)
    data = Large()
    with torch.no_grad():
        alone = [features_and_logits(model, data[row]["pixel_values"][None]) for row in range(len(data))]
    sizes.seen.clear()
    found = extract_features(model, data, batch_size=20)
    assert max(sizes.seen) == 8
    assert torch.equal(found.labels, torch.arange(21) % 4)
    torch.testing.assert_close(found.features, torch.cat([one for one, _ in alone]))
    torch.testing.assert_close(found.logits, torch.cat([one for _, one in alone]))


def test_the_frozen_part_of_large_images_is_that_of_each_image():
    model = timm.create_model("resnet10t", num_classes=3).eval()
    images = torch.stack([Large()[row]["pixel_values"] for row in range(11)])
    select_trainable(model, "last", images[:2])
    prefix = FrozenPrefix(model, images[:2])
    torch.testing.assert_close(prefix(images), torch.cat([prefix(one[None]) for one in images]), rtol=1e-4, atol=1e-5)


class TokensFirst(TinyNet):
    """Between its blocks images are the second axis, as in nn.Transformer."""

    def __init__(self):
        super().__init__()
        del self.score
        self.mixed = nn.Sequential(nn.Linear(24, 24), nn.ReLU())
        self.score = nn.Linear(24, 3)

    def forward(self, pixel_values):
        early = self.blocks(self.stem(pixel_values))
        tokens = self.widen(early).flatten(2).permute(2, 0, 1)
        return self.score(self.mixed(tokens).mean(0))


def test_activations_that_are_not_one_row_an_image_are_not_kept():
    model, images = TokensFirst().eval(), torch.randn(4, 3, 8, 8)
    select_trainable(model, ["mixed", "score"], images)
    with pytest.raises(ValueError, match="activations are not one row an image"):
        FrozenPrefix(model, images)
