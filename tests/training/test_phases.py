"""A learning rate that starts anew."""

from __future__ import annotations

import pytest
import torch
from transformers import get_scheduler

from hf_immunize import ImmunizationArguments
from hf_immunize.training.phases import restarted


def rates(scheduler, steps):
    found = []
    for _ in range(steps):
        found.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    return found


def optimizer():
    return torch.optim.SGD([torch.zeros((), requires_grad=True)], lr=0.5)


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant_with_warmup"])
def test_each_part_is_the_schedule_of_so_many_steps(kind):
    args = ImmunizationArguments("", lr_scheduler_type=kind, warmup_steps=0.25, use_cpu=True, report_to="none")
    found = rates(restarted(args, optimizer(), 11, 0.6), 11)
    parts = []
    for steps in (7, 4):
        alone = get_scheduler(kind, optimizer(), args.get_warmup_steps(steps), steps)
        parts += rates(alone, steps)
    assert found == pytest.approx(parts)


def test_a_schedule_that_follows_a_metric_is_left_as_it_is():
    args = ImmunizationArguments(
        "", lr_scheduler_type="reduce_lr_on_plateau", eval_strategy="steps", use_cpu=True, report_to="none"
    )
    assert restarted(args, optimizer(), 10, 0.5) is None
