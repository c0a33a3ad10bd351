"""Signs of a defence that hides gradients: each on a planted model, none on θ0."""

from __future__ import annotations

import copy

import pytest
import torch
from planted import Buried, Gain, Stages
from tiny import Images
from torch import nn
from torch.utils.data import Subset

from hf_immunize import run_attacks
from hf_immunize.attacks import AttackReport, Budgets
from hf_immunize.attacks.flags import FLAGS, flags_of_model


class Brittle(nn.Module):
    """As it is without gradients; with them they are not finite."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows + (rows - rows.detach()).abs().sqrt()


def planted(kind: str) -> nn.Module:
    torch.manual_seed(0)
    model = Stages().eval()
    with torch.no_grad():
        if kind == "dead units":
            model.second.bias[4:] -= 100
        if kind == "gradients":
            model.blocks[0][1] = Gain(model.first, 1e3)
        if kind == "scale":
            model.first.weight.mul_(1e-4)
            model.second.weight.div_(1e-4)
        if kind == "first step":
            model.blocks.append(Brittle())
    return model


@pytest.mark.parametrize("kind", [kind for kind in FLAGS if kind != "rates"])
def test_each_sign_is_found_where_it_was_planted(kind):
    data = Buried(64, 1)
    batch = {"pixel_values": data.images, "labels": data.labels}
    found = flags_of_model(planted(kind), planted("none"), batch, 8)
    assert kind in found
    # A layer that is rescaled has gradients of another scale, too.
    assert set(found) <= {kind, "gradients"} | ({"scale"} if kind == "gradients" else set())
    assert flags_of_model(planted("none"), planted("none"), batch, 8) == {}
    assert flags_of_model(planted(kind), planted(kind), batch, 8) == {}


def test_training_alone_raises_no_sign(two_models):
    model, base = two_models
    data = Images(40)
    assert flags_of_model(model, base, {"pixel_values": data.x, "labels": data.y}, 3) == {}


def test_rates_that_suddenly_work_stand_in_the_verdict_and_in_the_record():
    base = planted("none")
    model = copy.deepcopy(base)
    with torch.no_grad():
        model.second.weight[:, :8] = 0
    model.blocks[0][1], model.blocks[1][0] = Gain(model.first, 1e3), Gain(model.second, 1e3)
    data = Buried(560, 1)
    report = run_attacks(
        model,
        base,
        Subset(data, range(400)),
        Subset(data, range(400, 560)),
        attackers=["all-weights", "far-rates"],
        budgets=Budgets((None,), (5,), (None,), (30, 100), seeds=(0,)),
        scratch=False,
    )
    assert report.flags is not None
    assert "rates" in report.flags
    assert "suddenly work" in report.verdict["text"].split("Hides rather than holds: ")[1]
    assert "Hides rather than holds" in str(report)
    assert AttackReport.from_dict(report.to_dict()) == report


def test_where_no_weights_are_trained_nobody_looks_and_old_reports_load(two_models):
    budgets = Budgets((None,), (5,), seeds=(0,))
    report = run_attacks(*two_models, Images(40), Images(20), attackers="ridge", budgets=budgets, scratch=False)
    assert report.flags is None
    old = report.to_dict()
    del old["flags"]
    assert AttackReport.from_dict(old) == report
