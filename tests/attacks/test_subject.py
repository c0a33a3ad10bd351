"""A model and its data as attackers see them: what is shared runs once."""

from __future__ import annotations

import copy
import gc
import weakref

import torch
from tiny import Images, Skips, TinyNet

from hf_immunize import run_attacks
from hf_immunize.attacks import Budgets
from hf_immunize.attacks.subject import Redrawn, Subject
from hf_immunize.models.activations import ActivationStore


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


def test_one_draw_is_kept_at_a_time():
    class Draw:
        pass

    draws = []

    def make(seed):
        assert all(one() is None for one in draws)
        draw = Draw()
        draws.append(weakref.ref(draw))
        return draw

    redrawn = Redrawn(make)
    assert redrawn.at(3) is redrawn.at(3)
    redrawn.at(5)
    redrawn.at(3)
    assert len(draws) == 3


def test_nothing_of_a_draw_outlives_its_seed(two_models, monkeypatch):
    """The activations of random weights may be the largest thing in memory: no draw waits for the garbage collector."""
    drawn = []

    class Watched(Subject):
        def __init__(self, model, *args, **kwargs):
            super().__init__(model, *args, **kwargs)
            if not any(model is one for one in two_models):
                assert all(one() is None for one in drawn)
                drawn.append(weakref.ref(self))

    monkeypatch.setattr("hf_immunize.attacks.suite.Subject", Watched)
    budgets = Budgets((None,), (5,), (None,), (2,), seeds=(0, 1, 2))
    gc.disable()
    try:
        attackers = ["ridge regression", "last block", "all weights"]
        run_attacks(*two_models, Images(60), Images(30, seed=1), attackers=attackers, budgets=budgets)
    finally:
        gc.enable()
    assert len(drawn) == 3
