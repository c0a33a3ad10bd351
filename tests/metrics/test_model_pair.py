"""Two models in one pass: what they share runs once, what is near rounding runs again, and nothing else does."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import Images, TinyNet, direct

from hf_immunize.metrics.evaluation import Protocol
from hf_immunize.metrics.model_pair import ModelPair


def counted(module):
    rows = []
    module.register_forward_hook(lambda _, args, __: rows.append(len(args[0])))
    return rows


@pytest.fixture
def pair():
    torch.manual_seed(0)
    base = TinyNet().eval()
    model = copy.deepcopy(base)
    with torch.no_grad():
        model.widen.weight.add_(0.1 * torch.randn_like(model.widen.weight))
    return model, base


def test_layers_that_are_shared_run_once_for_both_models(pair):
    model, base = pair
    data, groups = Images(40), Protocol(2, 10).indices(40)
    shared = ModelPair(model, base, data)
    assert shared.prefix is not None
    stems = [counted(one.stem) for one in (*pair, shared.prefix.model)]
    measured = shared.measured(data, "harmful", groups, None)
    assert [sum(rows) for rows in stems] == [0, 0, 40]
    whole = ModelPair(model, base, data)
    whole.prefix = None
    for name, one in whole.measured(data, "harmful", groups, None).items():
        assert measured[name].accuracy == one.accuracy
        assert measured[name].whole.condition_number == pytest.approx(one.whole.condition_number, rel=1e-4)
        for mine, theirs in zip(measured[name].groups, one.groups, strict=True):
            assert mine.condition_number == pytest.approx(theirs.condition_number, rel=1e-4)


def test_models_that_share_nothing_run_whole(pair):
    model, base = pair
    with torch.no_grad():
        model.stem.bias.add_(1)
    assert ModelPair(model, base, Images(4)).prefix is None
    assert ModelPair(TinyNet(), copy.deepcopy(base), Images(4)).prefix is None


def test_one_group_near_rounding_is_measured_again_and_no_other(pair):
    model, base = pair
    data = Images(40)
    with torch.no_grad():
        # The first ten images are ten times nearly the same one.
        data.x[1:10] = data.x[0] + 1e-6 * data.x[1:10]
        model.stem.weight.add_(0.1)
    groups = [torch.arange(10), torch.arange(20, 30)]
    rows = counted(base.stem), counted(model.stem)
    both = ModelPair(model, base, data)
    measured = both.measured(data, "primary", groups, None)
    # All rows, the ten again, and a few to find heads.
    assert all(50 <= sum(one) < 60 for one in rows)
    for name in ("initial", "immunized"):
        assert measured[name].precision == {"groups": {"float32": 1, "float64": 1}, "all_samples": "float32"}
        values = torch.linalg.svdvals(direct(both.models[name], data.x[:10]))
        expected = float(values[0] / values[9]) ** 2
        assert measured[name].groups[0].condition_number == pytest.approx(expected, rel=1e-5)
