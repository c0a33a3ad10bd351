"""θ0 is kept beside a run and its checkpoints."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import TinyNet
from trainers import state, trainer


def test_theta_zero_survives_a_resume_from_other_weights(tmp_path, tiny_net, primary, harmful):
    start = {name: value.clone() for name, value in tiny_net.named_parameters()}
    common = {"max_steps": 6, "save_strategy": "steps", "save_steps": 4}
    trainer(tmp_path, tiny_net, primary, harmful, **common).train()
    # The trained model itself is passed in: θ0 must come from the first run.
    again = trainer(tmp_path, tiny_net, primary, harmful, **common)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    kept = again.initial_state_dict()
    assert all(torch.equal(kept[name], value) for name, value in start.items())


def test_theta_zero_gives_its_own_logits_where_statistics_moved_too(tmp_path, tiny_net, primary, harmful):
    tiny_net(primary.x)
    before = copy.deepcopy(tiny_net).eval()
    run = trainer(tmp_path, tiny_net, primary, harmful, objective="purge", save_strategy="steps", save_steps=4)
    run.train()
    assert not torch.equal(tiny_net.blocks[0].norm.running_mean, before.blocks[0].norm.running_mean)
    # The trained model is passed in, and its statistics with it.
    again = trainer(tmp_path, tiny_net, primary, harmful, objective="purge", save_strategy="steps", save_steps=4)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    for one in (run, again):
        initial = TinyNet()
        initial.load_state_dict(one.initial_state_dict())
        assert torch.equal(initial.eval()(primary.x), before(primary.x))
        with one._theta_zero.put_back(tiny_net):
            assert torch.equal(tiny_net.eval()(primary.x), before(primary.x))
        assert not torch.equal(tiny_net(primary.x), before(primary.x))


def test_weights_that_two_modules_share_are_put_back_under_both_names(tmp_path, tiny_net, primary, harmful):
    tiny_net.blocks[2].conv.weight = tiny_net.blocks[0].conv.weight
    start = state(tiny_net)
    common = {"trainable": "all", "save_strategy": "steps", "save_steps": 4, "max_steps": 6}
    trainer(tmp_path, tiny_net, primary, harmful, **common).train()
    assert not torch.equal(tiny_net.blocks[2].conv.weight, start["blocks.2.conv.weight"])
    again = trainer(tmp_path, tiny_net, primary, harmful, **common)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    initial = TinyNet()
    initial.load_state_dict(again.initial_state_dict())
    assert all(torch.equal(value, start[name]) for name, value in initial.state_dict().items())


class Remembers(torch.nn.Module):
    """A buffer of its own, which moves in training."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, hidden):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * hidden.detach().mean()
        return hidden - self.mean


@pytest.mark.parametrize("kind", ["spectral norm", "instance norm", "own"])
def test_what_moves_beside_the_weights_is_put_back_too(tmp_path, tiny_net, primary, harmful, kind):
    if kind == "spectral norm":
        torch.nn.utils.parametrizations.spectral_norm(tiny_net.widen)
    else:
        parts = [torch.nn.InstanceNorm2d(12, affine=True, track_running_stats=True), tiny_net.widen]
        tiny_net.widen = torch.nn.Sequential(*([tiny_net.widen, Remembers()] if kind == "own" else parts))
    before = copy.deepcopy(tiny_net).eval()
    run = trainer(tmp_path, tiny_net, primary, harmful, trainable="widen")
    run.train()
    moved = tiny_net.state_dict()
    buffers = {name for name, _ in tiny_net.named_buffers() if name.startswith("widen") and "batches" not in name}
    assert any(not torch.equal(moved[name], value) for name, value in before.state_dict().items() if name in buffers)
    initial = run.initial_model().eval()
    assert all(torch.equal(initial.state_dict()[name], value) for name, value in before.state_dict().items())
    assert torch.equal(initial(primary.x), before(primary.x))
