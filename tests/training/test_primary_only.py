"""The network of the primary task alone, and when it is trained."""

from __future__ import annotations

import pytest
import torch
from planted import QUICK
from tiny import Images, TinyNet
from torch import nn
from trainers import arguments

from hf_immunize import immunize
from hf_immunize.models.random_weights import random_weights
from hf_immunize.training.primary_only import PrimaryOnlyTrainer, primary_only_arguments


class Unused(TinyNet):
    """Holds weights that it never uses."""

    def __init__(self) -> None:
        super().__init__()
        self.aside = nn.Linear(3, 3)


def few(folder, **changes):
    return arguments(folder, **({"max_steps": 3, "per_device_train_batch_size": 8} | changes))


def call(folder, attackers, **more):
    data = ((Images(48, seed=1), Images(32, seed=2)), (Images(40, seed=3), Images(24, seed=4)))
    options = {"budgets": QUICK, "control": False, "ceiling_steps": 4}
    torch.manual_seed(0)
    return immunize(TinyNet().eval(), *data, few(folder), attackers=attackers, **(options | more))


def test_it_learns_the_primary_task_from_random_weights_with_statistics_of_its_own(tmp_path):
    """All weights train and every BatchNorm follows; a recipe that kept them still would make the ceiling too low."""
    torch.manual_seed(0)
    network = random_weights(Unused(), seed=0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    given = few(tmp_path, optim="sgd", lr_scheduler_type="constant", trainable=["score"], objective="imma")
    args = primary_only_arguments(given, tmp_path / "own", 300)
    assert (args.optim, str(args.lr_scheduler_type.value), args.trainable) == ("adamw_torch_fused", "cosine", ["all"])
    train, test = Images(256, seed=1), Images(256, seed=1)
    PrimaryOnlyTrainer(network, args, train_dataset=train, eval_dataset=test).train()
    after = network.state_dict()
    assert not torch.equal(after["blocks.0.norm.running_mean"], before["blocks.0.norm.running_mean"])
    same = [name for name, value in after.items() if torch.equal(value, before[name])]
    assert all(name.startswith("aside") for name in same)
    with torch.no_grad():
        accuracy = (network.eval()(test.x).argmax(1) == test.y).double().mean()
    assert accuracy > 0.9


@pytest.mark.parametrize(
    ("attackers", "more", "models"),
    [
        ("ridge regression", {}, {"initial", "immunized", "scratch"}),
        ("ridge regression", {"ceilings": True}, {"initial", "immunized", "scratch", "primary_only"}),
        (
            "ridge regression",
            {"ceilings": True, "fit_steps": 2},
            {"initial", "immunized", "scratch", "primary_only", "public"},
        ),
        (["ridge regression", "last block"], {}, {"initial", "immunized", "scratch", "primary_only"}),
        ("last block", {"ceilings": False, "fit_steps": 2}, {"initial", "immunized", "scratch"}),
    ],
)
def test_ceilings_are_trained_where_attackers_fine_tune_or_where_they_are_asked_for(tmp_path, attackers, more, models):
    run = call(tmp_path, attackers, **more)
    attacks = run.results["attacks"]
    assert set(next(iter(attacks["attackers"].values()))["accuracy"]) == models
    assert set(attacks["uplift"]["ceilings"]) == models - {"initial", "immunized"}
    said = attacks["verdict"]["text"].partition("Not measured")[2]
    assert ("public weights" in said) == ("public" not in models)
    assert ("primary_only" in run.record.training) == ("primary_only" in models)
    assert set(run.ceilings) == models & {"primary_only", "public"}
    if "primary_only" in models:
        facts = run.record.training["primary_only"]
        assert (facts["steps"], facts["learning_rate"]) == (4, 1e-3)
        assert facts["accuracy"] == run.results["primary_accuracy"]["primary_only"]
    # What was released is no other for it.
    plain = call(tmp_path / "plain", "ridge regression", ceilings=False, fit_steps=more.get("fit_steps", 0))
    for name, value in plain.model.state_dict().items():
        assert torch.equal(run.model.state_dict()[name], value)


def test_what_cannot_be_is_said_before_any_training(tmp_path):
    with pytest.raises(ValueError, match="Choose attackers too, or ceilings=False"):
        call(tmp_path, None, ceilings=True)
    with pytest.raises(ValueError, match="ceiling_steps must be a whole number of at least 1, got 0"):
        call(tmp_path, "ridge regression", ceiling_steps=0)
    assert not list(tmp_path.iterdir())
