"""θ0 and what was made of it in one pass: what they share runs once, and only what is near rounding runs again."""

from __future__ import annotations

import copy

import pytest
import torch
from planted import QUICK
from tiny import Images, TinyNet, direct

from hf_immunize import run_attacks
from hf_immunize.metrics.peers import Measured, Peers
from hf_immunize.metrics.report import Protocol
from hf_immunize.metrics.rounding import N_DRAWN, N_HEAVY
from hf_immunize.models.activations import ActivationStore


def counted(module):
    rows = []
    module.register_forward_hook(lambda _, args, __: rows.append(len(args[0])))
    return rows


@pytest.fixture
def pair():
    return moved_beside(TinyNet)


def moved_beside(kind):
    """A model and the one that it started from; their first layers are the same."""
    torch.manual_seed(0)
    base = kind().eval()
    model = copy.deepcopy(base)
    with torch.no_grad():
        model.widen.weight.add_(0.1 * torch.randn_like(model.widen.weight))
    return model, base


def test_layers_that_are_shared_run_once_for_both_models(pair):
    model, base = pair
    data, groups = Images(40), Protocol(2, 10).indices(40)
    shared = Peers({"immunized": model, "initial": base}, data)
    assert shared.prefix is not None
    stems = [counted(one.stem) for one in (*pair, shared.prefix.model)]
    measured = shared.measured(data, "harmful", groups, None)
    assert [sum(rows) for rows in stems] == [0, 0, 40]
    whole = Peers({"immunized": model, "initial": base}, data)
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
    assert Peers({"immunized": model, "initial": base}, Images(4)).prefix is None
    assert Peers({"immunized": TinyNet(), "initial": copy.deepcopy(base)}, Images(4)).prefix is None


def test_one_group_near_rounding_is_measured_again_and_no_other(pair):
    model, base = pair
    data = Images(40)
    with torch.no_grad():
        # The first ten images are ten times nearly the same one.
        data.x[1:10] = data.x[0] + 1e-6 * data.x[1:10]
        model.stem.weight.add_(0.1)
    groups = [torch.arange(10), torch.arange(20, 30)]
    rows = counted(base.stem), counted(model.stem)
    both = Peers({"immunized": model, "initial": base}, data)
    measured = both.measured(data, "primary", groups, None)
    # All rows, the ten again, and a few to find heads and to see that they repeat.
    assert all(50 <= sum(one) < 60 + 5 for one in rows)
    for name in ("initial", "immunized"):
        assert measured[name].precision == {"groups": {"float32": 1, "float64": 1}, "all_samples": "float32"}
        values = torch.linalg.svdvals(direct(both.models[name], data.x[:10]))
        expected = float(values[0] / values[9]) ** 2
        assert measured[name].groups[0].condition_number == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("is_known", [True, False])
def test_a_few_rows_in_float64_stand_for_all_samples(pair, is_known):
    """A channel that is small keeps its digits; one that is nearly another is lost in that one's rounding."""
    model, base = pair
    data, groups = Images(400), Protocol(2, 10).indices(400)
    with torch.no_grad():
        for one in pair:
            one.widen.bias.add_(1.0)
            if is_known:
                one.widen.weight[0] *= 3e-4
                one.widen.bias[0] *= 3e-4
            else:
                one.widen.weight[0], one.widen.bias[0] = one.widen.weight[1], one.widen.bias[1]
                one.widen.weight[0, 0] *= 1 + 3e-4
    base.stem.bias.data.add_(0.1)
    rows = counted(base.stem), counted(model.stem)
    both = Peers({"immunized": model, "initial": base}, data)
    measured = both.measured(data, "primary", groups, None)
    again = N_HEAVY + N_DRAWN if is_known else 400 + N_HEAVY + N_DRAWN
    for name, seen in zip(("initial", "immunized"), rows, strict=True):
        # Few of the rows may be heavy; two images find what the models share, and that features repeat.
        assert 400 + again - N_HEAVY <= sum(seen) <= 400 + again + 10
        found = measured[name]
        assert found.precision == {"groups": {"float32": 2}, "all_samples": "float32" if is_known else "float64"}
        values = torch.linalg.svdvals(direct(both.models[name], data.x))
        live = int((values > 1e-13 * values[0]).sum())
        assert found.whole.rank == live
        expected = float(values[0] / values[live - 1]) ** 2
        assert found.whole.condition_number == pytest.approx(expected, rel=3e-4 if is_known else 1e-9)
        floor = torch.finfo(torch.float32).eps * torch.linalg.vector_norm(values)
        assert floor < values[live - 1] < 30 * floor, "where float32 alone would not do"


def test_a_control_shares_what_the_others_do_and_activations_serve_many_runs(pair):
    model, base = pair
    control = copy.deepcopy(base)
    with torch.no_grad():
        control.score.weight.add_(0.1)
    data, groups, store = Images(40), Protocol(2, 10).indices(40), ActivationStore()
    models = {"immunized": model, "control": control, "initial": base}
    alone = Peers({"immunized": model, "initial": base}, data).measured(data, "primary", groups, None)
    for first in (True, False):
        peers = Peers(models, data, activations=store)
        rows = counted(peers.prefix.model.stem)
        found = peers.measured(data, "primary", groups, None)
        assert list(found) == ["initial", "immunized", "control"]
        assert sum(rows) == (41 + 1 if first else 1), "once for the first run, and an image for its size"
        for name, one in alone.items():
            assert found[name].accuracy == one.accuracy
            assert found[name].whole.condition_number == pytest.approx(one.whole.condition_number, rel=1e-4)


def test_features_that_are_there_are_measured_as_they_are():
    rows = torch.randn(20, 6, dtype=torch.float64)
    groups = Protocol(3, 6, 2).indices(20)
    found = Measured.of(rows, groups)
    assert found.precision == {"groups": {"float64": 3}, "all_samples": "float64"}
    for one, group in zip(found.groups, groups, strict=True):
        assert one.condition_number == pytest.approx(torch.linalg.cond(rows[group]).item() ** 2)


class Scaled(TinyNet):
    """A second input beside the images."""

    def forward(self, pixel_values, scale=None):
        return super().forward(pixel_values if scale is None else pixel_values * scale[:, None, None, None])


def test_what_a_model_takes_beside_images_reaches_it():
    model, base = moved_beside(Scaled)
    data = Images(40)
    scale = 0.5 + torch.arange(40) / 10
    scaled = [data[k] | {"scale": scale[k]} for k in range(40)]
    done = [data[k] | {"pixel_values": data.x[k] * scale[k]} for k in range(40)]
    groups = Protocol(2, 10).indices(40)
    both = {"immunized": model, "initial": base}
    peers = Peers(both, scaled)
    assert peers.prefix is None
    found, expected = (Peers(both, one).measured(one, "primary", groups, None) for one in (scaled, done))
    for name in both:
        assert found[name].accuracy == expected[name].accuracy
        assert found[name].whole.condition_number == pytest.approx(expected[name].whole.condition_number, rel=1e-4)
    few = {"attackers": "ridge", "budgets": QUICK, "scratch": False}
    reports = [run_attacks(model, base, one[:30], one[30:], **few) for one in (scaled, done)]
    accuracy = [one.attackers["ridge regression"]["accuracy"]["immunized"] for one in reports]
    assert accuracy[0] == accuracy[1]
