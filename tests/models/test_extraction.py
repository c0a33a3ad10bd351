"""Features of whole data sets, in their order."""

from __future__ import annotations

import pytest
import torch
from tiny import direct

from hf_immunize.models.extraction import extract_features


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
