"""RIR_θ0 while a run goes on."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from tiny import Images
from trainers import arguments, trainer

from hf_immunize import evaluate_immunization
from hf_immunize.data.collate import collate_images
from hf_immunize.metrics.report import Protocol
from hf_immunize.models.extraction import extract_features
from hf_immunize.models.trainable import select_trainable
from hf_immunize.training import ratio_in_mid_run
from hf_immunize.training.theta_zero import ThetaZero


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


@pytest.fixture
def extractions(monkeypatch):
    """How often features of a task were made."""
    made = []

    def counted(*args, **kwargs):
        made.append(args)
        return extract_features(*args, **kwargs)

    monkeypatch.setattr(ratio_in_mid_run, "extract_features", counted)
    return lambda: len(made), made.clear


def test_features_of_theta_zero_are_made_once_for_the_same_data(tmp_path, tiny_net, primary, harmful, extractions):
    count, clear = extractions
    args, ratio = arguments(tmp_path), ratio_in_mid_run.RatioInMidRun()
    select_trainable(tiny_net, "last", primary.x[:2])
    theta_zero = ThetaZero(tiny_net)

    def made(data, of=args):
        clear()
        found = ratio.metrics(tiny_net, theta_zero, data, of, accelerator=Accelerator(cpu=True), collate=collate_images)
        return found["rir"], count()

    data, other = {"primary": primary, "harmful": harmful}, {"primary": primary, "harmful": Images(40, seed=9)}
    assert made(data) == (pytest.approx(1.0), 4)
    with torch.no_grad():
        tiny_net.widen.weight += 0.3 * torch.randn_like(tiny_net.widen.weight)
    moved = made(data)
    assert moved[1] == 2
    assert abs(moved[0] - 1) > 1e-3
    # Anew for other data, and for another draw from them; and nothing of it is forgotten.
    assert made(other)[1] == 4
    assert made(data, arguments(tmp_path, rir_max_samples=20))[1] == 4
    assert made(data) == (pytest.approx(moved[0]), 2)


def test_features_of_theta_zero_are_made_anew_after_a_resume(tmp_path, tiny_net, primary, harmful, extractions):
    count, clear = extractions
    common = {"max_steps": 4, "save_strategy": "steps", "save_steps": 4, "learning_rate": 0.05}
    first = trainer(tmp_path, tiny_net, primary, harmful, **common)
    first.train()
    wanted = first.evaluate()["eval_rir"]
    assert abs(wanted - 1) > 1e-3
    # The trained weights are what this one takes for θ0, until the first run's θ0 is read.
    again = trainer(tmp_path, tiny_net, primary, harmful, **common)
    clear()
    assert again.evaluate()["eval_rir"] == pytest.approx(1.0)
    assert count() == 4
    clear()
    again.train(resume_from_checkpoint=True)
    assert again.evaluate()["eval_rir"] == pytest.approx(wanted, rel=1e-5)
    assert count() == 4
