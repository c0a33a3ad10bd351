"""θ0 is kept beside a run and its checkpoints."""

from __future__ import annotations

import torch
from trainers import trainer


def test_theta_zero_survives_a_resume_from_other_weights(tmp_path, tiny_net, primary, harmful):
    start = {name: value.clone() for name, value in tiny_net.named_parameters()}
    common = {"max_steps": 4, "save_strategy": "steps", "save_steps": 4}
    trainer(tmp_path, tiny_net, primary, harmful, **common).train()
    # The trained model itself is passed in: θ0 must come from the first run.
    again = trainer(tmp_path, tiny_net, primary, harmful, **(common | {"max_steps": 6}))
    again.train(resume_from_checkpoint=True)
    kept = again.initial_state_dict()
    assert all(torch.equal(kept[name], value) for name, value in start.items())
