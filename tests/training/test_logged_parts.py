"""The parts of the loss stand in the log, and go on in a run that goes on."""

from __future__ import annotations

import pytest
import torch
from tiny import Images, TinyNet
from trainers import trainer


def test_parts_are_logged_and_add_up_to_the_loss(tmp_path, tiny_net, primary, harmful):
    run = trainer(tmp_path, tiny_net, primary, harmful, logging_steps=3)
    run.train()
    logged = [entry for entry in run.state.log_history if "loss" in entry]
    assert len(logged) == 2
    for entry in logged:
        assert {"task_loss", "r_well", "r_ill"} <= entry.keys()
        # The Trainer keeps its own sum in float32.
        assert entry["task_loss"] + entry["r_well"] + entry["r_ill"] == pytest.approx(entry["loss"], rel=1e-4)


def test_what_is_not_logged_yet_is_summed_on(tmp_path):
    first, second = (trainer(tmp_path, TinyNet(), Images(48), Images(48, seed=1)) for _ in range(2))
    first._tr_loss, first._total_loss_scalar, first._globalstep_last_logged = torch.tensor(3.0), 5.0, 7
    for step in (1.0, 2.0):
        first._count({"task_loss": torch.tensor(step), "r_ill": torch.tensor(10 * step)})
    second._sum_on_from(first._not_logged_yet())
    assert (second._tr_loss.item(), second._total_loss_scalar, second._globalstep_last_logged) == (3.0, 5.0, 7)
    logs = {"loss": 3.0}
    second.log(logs)
    assert (logs["task_loss"], logs["r_ill"]) == (1.5, 15.0)
    assert (second._parts, second._parts_steps) == ({}, 0)
