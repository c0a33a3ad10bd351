"""What runs on a real GPU, against the same on the CPU: training, evaluation, attacks, spectra, a resume."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import Images, TinyNet
from trainers import arguments, state

from hf_immunize import ImmunizationTrainer, evaluate_immunization
from hf_immunize.attacks import ATTACKERS, Budgets, run_attacks
from hf_immunize.models.random_weights import random_weights
from hf_immunize.objectives.registry import OBJECTIVES
from hf_immunize.spectra.eigen import GramEigen, of_features

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
GPU = "cuda"


def trained(folder, on_gpu, resume=None, compute_loss_func=None, **changes):
    torch.manual_seed(0)
    options = {"max_steps": 4, "per_device_harmful_batch_size": 16, "use_cpu": not on_gpu}
    made = ImmunizationTrainer(
        TinyNet(),
        arguments(folder, **(options | changes)),
        train_dataset=Images(64, seed=1),
        harmful_dataset=Images(64, n_classes=4, seed=2),
        eval_dataset=Images(50, seed=3),
        compute_loss_func=compute_loss_func,
    )
    made.train(resume_from_checkpoint=resume)
    assert {one.device.type for one in made.model.parameters()} == {GPU if on_gpu else "cpu"}
    return made


def assert_same(one, other, atol):
    for (name, a), b in zip(state(one).items(), state(other).values(), strict=True):
        where = f"{name}: {{}}".format
        torch.testing.assert_close(a.cpu(), b.cpu(), rtol=1e-3, atol=atol, msg=where)


@pytest.mark.parametrize("trainable", ["all", "last"])
@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_a_training_is_that_on_the_cpu(tmp_path, name, trainable):
    weights = {"lambda_primary": 1e-3, "lambda_harmful": 1e-3} if name.startswith("opt_") else {}
    options = {"objective": name, "trainable": [trainable], "learning_rate": 1e-3, **weights}
    here, there = (trained(tmp_path / str(one), one, **options) for one in (True, False))
    assert_same(here.model, there.model, 2e-4)
    found, wanted = here.evaluate(), there.evaluate()
    assert found["eval_loss"] == pytest.approx(wanted["eval_loss"], rel=1e-3)
    assert found["eval_accuracy"] == pytest.approx(wanted["eval_accuracy"], abs=0.021)


@pytest.mark.parametrize("name", ["simulated_attackers", "rep_noise", "purge"])
def test_a_resumed_run_ends_in_the_weights_of_an_uninterrupted_one(tmp_path, name):
    saving = {"objective": name, "save_strategy": "steps", "save_steps": 2, "trainable": ["all"]}
    whole = trained(tmp_path / "run", True, **saving)
    again = trained(tmp_path / "again", True, resume=str(tmp_path / "run" / "checkpoint-2"), **saving)
    assert_same(whole.model, again.model, 1e-5)


def test_half_precision_trains(tmp_path):
    made = trained(tmp_path, True, bf16=True, max_steps=8)
    assert all(np.isfinite(one.get("loss", 0)) for one in made.state.log_history)
    assert all(torch.isfinite(one).all() for one in state(made.model).values())


def test_the_weights_of_a_loss_of_ones_own_may_lie_there(tmp_path):
    losses = {}
    for place in (GPU, "cpu"):
        weight = torch.tensor([1.0, 2.0, 4.0], device=place)

        def weighted(outputs, labels, num_items_in_batch=None, weight=weight):
            return F.cross_entropy(outputs.logits, labels, weight=weight)

        made = trained(tmp_path / place, place == GPU, max_steps=2, compute_loss_func=weighted)
        losses[place] = made.evaluate()["eval_loss"]
    assert losses[GPU] == pytest.approx(losses["cpu"], rel=1e-3)


def test_rir_is_that_on_the_cpu():
    torch.manual_seed(0)
    base, other = TinyNet(), TinyNet()
    data = Images(200, seed=1), Images(200, seed=2)
    here, there = (evaluate_immunization(other, base, *data, device=place) for place in (GPU, "cpu"))
    assert here.rir == pytest.approx(there.rir, rel=1e-3)
    assert {one.device.type for one in base.parameters()} == {"cpu"}


@pytest.mark.parametrize("name", sorted(ATTACKERS))
def test_an_attacker_reaches_what_it_reaches_on_the_cpu(name):
    if "LoRA" in name:
        pytest.importorskip("peft")
    torch.manual_seed(0)
    base, other = TinyNet().eval(), TinyNet().eval()
    found = {}
    for place in (GPU, "cpu"):
        report = run_attacks(
            other,
            base,
            Images(120, n_classes=4, seed=1),
            Images(120, n_classes=4, seed=1),
            public=base,
            primary=Images(60, seed=2),
            attackers=name,
            budgets=Budgets((None,), (30,), (None,), (4, 40), seeds=(0,)),
            scratch=False,
            device=place,
        )
        found[place] = report.attackers[name]["accuracy"]
    for model, by_samples in found["cpu"].items():
        for samples, by_steps in by_samples.items():
            for steps, one in by_steps.items():
                assert found[GPU][model][samples][steps]["mean"] == pytest.approx(one["mean"], abs=0.15), (model, steps)
    assert {one.device.type for net in (base, other) for one in net.parameters()} == {"cpu"}


def test_random_weights_are_those_on_the_cpu():
    torch.manual_seed(0)
    model = TinyNet()
    here = random_weights(model.to(GPU), seed=3)
    assert {one.device.type for one in here.parameters()} == {GPU}
    there = random_weights(model.cpu(), seed=3)
    assert all(torch.equal(one.cpu(), other) for one, other in zip(here.parameters(), there.parameters(), strict=True))


@pytest.mark.parametrize("shape", [(40, 100), (100, 40)])
def test_spectra_and_their_gradients_are_those_on_the_cpu(shape):
    rows = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = {}
    for place in (GPU, "cpu"):
        one = rows.to(place).requires_grad_()
        value = of_features(one, lambda values: (torch.log1p(values).sum(), 1 / (1 + values)))
        value.backward()
        assert value.device.type == one.grad.device.type == place
        head = GramEigen.of(rows.to(place)).least_squares(torch.ones(shape[0], device=place, dtype=torch.float64))
        found[place] = [value.detach().cpu(), one.grad.cpu(), head.cpu()]
    for one, other in zip(*found.values(), strict=True):
        torch.testing.assert_close(one, other)
