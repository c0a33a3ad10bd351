"""RIR_θ0 while a run goes on."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from trainers import trainer

from hf_immunize import evaluate_immunization
from hf_immunize.metrics.evaluation import Protocol


def test_evaluate_gives_accuracy_loss_and_rir_against_theta_zero(tmp_path, tiny_net, primary, harmful):
    base = copy.deepcopy(tiny_net)
    run = trainer(tmp_path, tiny_net, primary, harmful, max_steps=12, learning_rate=0.05)
    before = run.evaluate()
    assert before["eval_rir"] == pytest.approx(1.0)
    run.train()
    after = run.evaluate()
    tiny_net.eval()
    logits = tiny_net(primary.x)
    assert after["eval_accuracy"] == pytest.approx((logits.argmax(1) == primary.y).double().mean().item())
    assert after["eval_loss"] == pytest.approx(F.cross_entropy(logits, primary.y).item(), rel=1e-4)
    assert after["eval_rir_rank_initial_harmful"] == 10
    # The same protocol through the public function, on the rows in the trainer's order.
    order = [torch.randperm(len(data), generator=torch.Generator().manual_seed(0)) for data in (primary, harmful)]
    subsets = [
        torch.utils.data.Subset(data, rows.tolist()) for data, rows in zip((primary, harmful), order, strict=True)
    ]
    report = evaluate_immunization(tiny_net, base, *subsets, protocol=Protocol(groups=4, group_size=10), float64=False)
    assert after["eval_rir"] == pytest.approx(report.rir, rel=1e-3)
    assert after["eval_rir_i"] == pytest.approx(report.rir_i, rel=1e-3)
    assert abs(after["eval_rir"] - 1) > 1e-3
