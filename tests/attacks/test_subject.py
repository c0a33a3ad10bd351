"""A model and its data as attackers see them: what is shared runs once."""

from __future__ import annotations

import copy

import torch
from tiny import Images, Skips, TinyNet

from hf_immunize.attacks.subject import Subject
from hf_immunize.models.frozen_prefix import ActivationStore


def test_frozen_parts_that_are_the_same_run_once():
    """Three models, of which two differ in their last block alone: the frozen part of these is run for one of them."""
    torch.manual_seed(0)
    base = TinyNet().eval()
    last, early = copy.deepcopy(base), copy.deepcopy(base)
    with torch.no_grad():
        last.widen.weight += 0.1
        early.stem.weight += 0.1
    data = {"train": Images(20), "test": Images(10)}
    alone = [Subject(one, data).material("tail") for one in (base, last, early)]
    store = ActivationStore()
    together = [Subject(one, data, activations=store).material("tail") for one in (base, last, early)]
    assert together[0].rows["train"] is together[1].rows["train"]
    assert together[0].rows["train"] is not together[2].rows["train"]
    for one, other in zip(alone, together, strict=True):
        for role in data:
            assert torch.equal(one.rows[role].activations, other.rows[role].activations)
        rows = one.rows["test"].activations
        assert torch.equal(one.model()(rows), other.model()(rows))


def test_only_the_last_block_trains_where_no_frozen_part_can_be_run_apart():
    model = Subject(Skips().eval(), {"train": Images(8), "test": Images(8)}).material("tail").model()
    trained = {name.split(".")[0] for name, one in model.named_parameters() if one.requires_grad}
    assert trained == {"blocks", "widen", "score"}
    assert not model.blocks[0].conv.weight.requires_grad
