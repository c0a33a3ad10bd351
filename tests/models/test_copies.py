"""Copies of models that keep something of their last pass."""

from __future__ import annotations

import torch
from tiny import Images, TinyNet
from torch.nn.utils import prune
from trainers import arguments

from hf_immunize import immunize
from hf_immunize.models.copies import copied


class Keeping(TinyNet):
    """Keeps its maps, as visualisations do."""

    def forward(self, pixel_values):
        self.last = [self.stem(pixel_values)]
        self.shown = {"first": self.last[0].mean()}
        return super().forward(pixel_values)


def test_what_a_module_computed_and_kept_is_copied_without_its_graph():
    model = Keeping()
    model(Images(2).x)
    assert not model.last[0].is_leaf
    twin = copied(model)
    assert torch.equal(twin.last[0], model.last[0])
    assert twin.last[0].is_leaf
    assert torch.equal(twin.shown["first"], model.shown["first"].detach())
    with torch.no_grad():
        next(twin.parameters()).add_(1)
    assert not torch.equal(next(twin.parameters()), next(model.parameters()))


def test_a_pruned_model_is_copied_and_computes_as_before():
    model = TinyNet().eval()
    prune.l1_unstructured(model.score, "weight", 0.5)
    images = Images(3).x
    torch.testing.assert_close(copied(model)(images), model(images))


def test_a_model_that_keeps_its_maps_goes_through_a_whole_run(tmp_path):
    data = [(Images(24, seed=one), Images(12, seed=one + 1)) for one in (0, 5)]
    args = arguments(tmp_path, max_steps=2, save_strategy="no")
    run = immunize(Keeping(), *data, args, attackers=["last-block", "ridge"], control=True)
    assert set(run.results["primary_accuracy"]) >= {"initial", "immunized", "control"}
