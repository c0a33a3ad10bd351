"""Features of whole data sets, in their order."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from tiny import direct

from hf_immunize.models.extraction import check_batch_size, extract_features


def test_features_come_in_the_order_of_the_data(tiny_net, primary):
    tiny_net.train()
    tiny_net.stem.eval()
    found = extract_features(tiny_net, primary, batch_size=7)
    assert tiny_net.training
    assert not tiny_net.stem.training
    torch.testing.assert_close(found.features, direct(tiny_net, primary.x, torch.float32))
    torch.testing.assert_close(found.logits, tiny_net.score(found.features).detach())
    assert torch.equal(found.labels, primary.y)
    expected = sum(int(found.logits[index].argmax()) == int(primary.y[index]) for index in range(96)) / 96
    assert found.accuracy == pytest.approx(expected)
    assert not found.features.requires_grad


def test_features_of_unlabelled_data_have_no_accuracy(tiny_net, harmful):
    found = extract_features(tiny_net, harmful)
    assert found.labels is None
    assert found.accuracy is None
    assert found.features.shape == (40, 24)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_images_are_cast_to_the_precision_of_the_weights(tiny_net, primary, dtype):
    found = extract_features(tiny_net.to(dtype), primary)
    assert found.features.dtype == dtype
    torch.testing.assert_close(found.features, direct(tiny_net, primary.x, dtype))
    assert extract_features(tiny_net.double(), primary, dtype=torch.float64).features.dtype == torch.float64


MEMORY = """
import resource, sys
import torch
from torch import nn
from hf_immunize.models.extraction import extract_features

class Tokens(nn.Module):
    # As many tokens as ViT-B/16 has, of its width; the features are a view of them, as in every ViT.
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(768))
        self.head = nn.Linear(768, 3)

    def forward(self, pixel_values):
        hidden = pixel_values.flatten(1)[:, :1, None].expand(-1, 197, 768) * self.scale
        return self.head(hidden[:, 0])

class Rows:
    def __init__(self, n):
        self.n, self.image = n, torch.ones(3, 2, 2)

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        if not 0 <= index < self.n:
            raise IndexError(index)
        return {"pixel_values": self.image, "labels": 0}

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

torch.set_num_threads(1)
model = Tokens()
extract_features(model, Rows(640), batch_size=64)
before, n = peak(), 30_000
found = extract_features(model, Rows(n), batch_size=64)
assert found.features.shape == (n, 768)
print((peak() - before) / (n * 768 * 4))
"""


def test_features_take_the_memory_of_their_numbers():
    ran = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert float(ran.stdout) < 1.05


@pytest.mark.parametrize("size", [0, -4, 2.5, True, None])
def test_a_batch_holds_a_whole_number_of_pictures(tiny_net, primary, size):
    with pytest.raises(ValueError, match="batch_size must be a whole number of 1 or more"):
        extract_features(tiny_net, primary, batch_size=size)
    check_batch_size(3)


def test_nothing_is_drawn_of_the_callers_random_numbers(tiny_net, primary):
    before = torch.get_rng_state()
    extract_features(tiny_net, primary)
    assert torch.equal(torch.get_rng_state(), before)
