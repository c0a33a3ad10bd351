"""What the parts of the Trainer share: the network, θ0 as a model, and what is said."""

from __future__ import annotations

import torch
from tiny import Images, TinyNet
from trainers import state, trainer


def test_theta_zero_is_a_model_of_its_own(tmp_path):
    model = TinyNet()
    before = state(model)
    made = trainer(tmp_path, model, Images(48), Images(48, seed=1), max_steps=1)
    made.train()
    initial = made.initial_model()
    torch.testing.assert_close(dict(initial.state_dict()), dict(before))
    assert initial is not model
    assert not all(torch.equal(one, before[name]) for name, one in state(made.model).items())


def test_what_is_said_is_noted(tmp_path):
    made = trainer(tmp_path, TinyNet(), Images(48), Images(48, seed=1))
    told = []
    made.notes = told
    made._say("the moon is full")
    made._note("it rains")
    assert told == ["the moon is full", "it rains"]


def test_an_objective_without_weights_adds_nothing(tmp_path):
    for harmful, active in ((0.0, False), (0.3, True)):
        made = trainer(tmp_path, TinyNet(), Images(48), Images(48, seed=1), lambda_primary=0.0, lambda_harmful=harmful)
        assert made._is_active is active
