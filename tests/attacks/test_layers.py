"""What passes through layers, and BatchNorm that goes into the layer before it."""

from __future__ import annotations

import copy

import pytest
import torch
from samples import tiny_timm
from tiny import Images, TinyNet
from torch import nn

from hf_immunize.attacks.layers import dead_inputs, fold_norms, passed_through


@pytest.mark.parametrize("family", [TinyNet, tiny_timm])
def test_folded_batch_normalisation_keeps_the_function_and_does_nothing_more(family):
    torch.manual_seed(0)
    model, images = family().eval(), torch.randn(4, 3, 32, 32)
    norms = {name: one for name, one in model.named_modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)}
    with torch.no_grad():
        for one in norms.values():
            one.running_mean.normal_()
            one.running_var.uniform_(0.1, 2)
            one.weight.normal_()
            one.bias.normal_()
    folded = copy.deepcopy(model)
    assert sorted(fold_norms(folded, images)) == sorted(norms)
    torch.testing.assert_close(folded(images), model(images), rtol=1e-3, atol=1e-4)
    for name in norms:
        norm, given = folded.get_submodule(name), torch.randn(2, norms[name].num_features, 4, 4)
        torch.testing.assert_close(nn.BatchNorm2d.forward(norm, given), given)
        assert not norm.weight.requires_grad


def test_batch_normalisation_before_the_layer_stays():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 2))
    assert fold_norms(model, torch.randn(2, 3, 8, 8)) == []


def test_dead_units_are_named_where_they_die_and_not_behind():
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(192, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(5, 3))
    batch = {"pixel_values": Images(40).x}
    living = passed_through(model, [batch])
    assert list(living) == ["1", "3", "5", "7"]
    before = {(maker, reader): int(dead.sum()) for maker, reader, dead in dead_inputs(model, living)}
    with torch.no_grad():
        model[1].bias[:2] -= 1000
    assert torch.equal(passed_through(model, [batch])["3"].constant, torch.arange(6) < 2)
    with torch.no_grad():
        model[1].bias[:] -= 1000
    assert [one[:2] for one in dead_inputs(model, passed_through(model, [batch]))] == [("1", "3")]
    assert ("1", "3") not in before
