"""Activations of whole data sets behind a frozen part."""

from __future__ import annotations

import torch
from torch.utils.data import Subset

from hf_immunize.models.activations import ActivationStore, CachedActivations
from hf_immunize.models.frozen_prefix import FrozenPrefix
from hf_immunize.models.trainable import select_trainable


def test_cached_activations_are_the_prefix_of_each_sample(tiny_net, primary, harmful):
    select_trainable(tiny_net, "last", primary.x[:2])
    prefix = FrozenPrefix(tiny_net, primary.x[:2])
    cached = CachedActivations(prefix, primary, batch_size=40)
    assert len(cached) == len(primary)
    assert torch.equal(cached.labels, primary.y)
    tiny_net.eval()
    expected = tiny_net.blocks[1](tiny_net.blocks[0](tiny_net.stem(primary.x)))
    torch.testing.assert_close(cached.activations, expected.detach())
    assert torch.equal(cached[7]["activations"], cached.activations[7])
    assert "labels" not in CachedActivations(prefix, harmful)[0]


def test_activations_are_kept_by_the_frozen_part_and_the_rows(tiny_net, primary):
    select_trainable(tiny_net, "last", primary.x[:2])
    prefix, store = FrozenPrefix(tiny_net, primary.x[:2]), ActivationStore()
    whole = store.of(prefix, primary)
    assert store.of(prefix, primary) is whole
    # The same rows of the same data, drawn twice, are the same; other rows are not.
    some = store.of(prefix, Subset(primary, [3, 5]))
    assert store.of(prefix, Subset(primary, [3, 5])) is some
    assert store.of(prefix, Subset(primary, [5, 3])) is not some
    assert torch.equal(some.activations, whole.activations[[3, 5]])
    # What trains may move; another frozen part is another one.
    with torch.no_grad():
        tiny_net.widen.weight += 1
    assert store.of(prefix, primary) is whole
    with torch.no_grad():
        tiny_net.stem.weight += 1
    assert store.of(prefix, primary) is not whole
