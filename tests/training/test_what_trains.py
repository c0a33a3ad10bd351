"""What trains has to be what an objective moves."""

from __future__ import annotations

import pytest
import torch
from tiny import Images, TinyNet
from torch import nn
from trainers import trainer

from hf_immunize.objectives.condition import Condition
from hf_immunize.training.what_trains import check_features_move, check_immunizes, check_own_optimizer


class TwoHeads(TinyNet):
    """A main and an auxiliary head, of which the last block is one."""

    def __init__(self):
        super().__init__()
        self.aux = nn.Linear(24, 3)

    def forward(self, pixel_values):
        features = torch.relu(self.widen(self.blocks(self.stem(pixel_values)))).mean((2, 3))
        return self.score(features), self.aux(features)


def test_a_head_alone_moves_no_features(tmp_path, tiny_net, primary, harmful):
    with pytest.raises(ValueError, match="No weight before the features trains"):
        trainer(tmp_path, tiny_net, primary, harmful, trainable="score")
    # Plain fine-tuning of the head is another matter.
    run = trainer(tmp_path, tiny_net, primary, harmful, trainable="score", lambda_primary=0.0, lambda_harmful=0.0)
    assert run.selection.n_parameters == sum(one.numel() for one in tiny_net.score.parameters())
    assert trainer(tmp_path, tiny_net, primary, harmful, trainable="widen").selection.n_parameters
    with pytest.raises(ValueError, match="No weight before the features trains"):
        trainer(tmp_path, TwoHeads(), primary, harmful, trainable="score")


def test_plain_fine_tuning_is_not_published_as_immunized(tmp_path, tiny_net, primary, harmful):
    check_immunizes(Condition(0.0, 0.3))
    check_immunizes(Condition(1.0, 0.0))
    with pytest.raises(ValueError, match="both 0: this is plain fine-tuning"):
        check_immunizes(Condition(0.0, 0.0))
    with pytest.raises(ValueError, match="both 0: this is plain fine-tuning"):
        trainer(tmp_path, tiny_net, primary, harmful, lambda_primary=0.0, lambda_harmful=0.0).push_to_hub()


def test_features_are_looked_at_with_gradients_and_nothing_is_left_behind(tiny_net):
    tiny_net.train()
    batch = {"pixel_values": Images(2).x}
    before = {name: one.clone() for name, one in tiny_net.state_dict().items()}
    with torch.no_grad():
        check_features_move(tiny_net, batch)
    assert tiny_net.training
    assert all(torch.equal(one, before[name]) for name, one in tiny_net.state_dict().items())
    assert all(one.grad is None for one in tiny_net.parameters())


def test_an_optimizer_of_ones_own_holds_what_trains(tmp_path, tiny_net, primary, harmful):
    check_own_optimizer(None, tiny_net)
    check_own_optimizer(torch.optim.SGD(tiny_net.parameters(), lr=0.1), tiny_net)
    other = torch.optim.SGD(tiny_net.stem.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"leaves out \d+ of the parameters that train \(blocks.0.conv.weight, say\)"):
        check_own_optimizer(other, tiny_net)
    tiny_net.requires_grad_(False)
    tiny_net.stem.requires_grad_(True)
    check_own_optimizer(other, tiny_net)
