"""A learning rate that starts anew, and a run that begins elsewhere."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from tiny import Images
from torch.utils.data import IterableDataset
from trainers import state, trainer
from transformers import TrainerCallback, get_scheduler

from hf_immunize import ImmunizationArguments
from hf_immunize.errors import InputError
from hf_immunize.objectives.purge import Purge
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


class Watched(TrainerCallback):
    """The weights before the first step, and the batch of that step."""

    def __init__(self, run) -> None:
        self.model, inner = run.model, run.compute_loss
        self.batches = []

        def compute_loss(model, inputs, *args, **kwargs):
            self.batches.append(inputs)
            return inner(model, inputs, *args, **kwargs)

        run.compute_loss = compute_loss
        run.add_callback(self)

    def on_train_begin(self, *_, **__):
        self.began = copy.deepcopy(self.model)
        self.drawn = torch.get_rng_state()


def test_the_first_loss_of_purge_is_what_a_slow_computation_gives(tmp_path, tiny_net, primary):
    tiny_net(primary.x)
    before = copy.deepcopy(tiny_net).eval()
    run = trainer(tmp_path, tiny_net, primary, Images(40, seed=5), objective="purge")
    watched = Watched(run)
    run.train()
    slow = perturbed(before, run.args.seed, Purge().strength)
    torch.manual_seed(run.args.seed)
    x, order = primary.x, torch.randperm(len(primary))
    with torch.no_grad():
        fit_statistics(slow, [x[order[:64]], x[order[64:]]])
        began = watched.began.eval()
        torch.testing.assert_close(began(x), slow(x), rtol=1e-4, atol=1e-4)
        images = watched.batches[0]["primary"]["pixel_values"]
        total = 0.0
        for ours, theirs in zip(slow(images).double(), before(images).double(), strict=True):
            q, p = (torch.softmax(one, 0).tolist() for one in (ours, theirs))
            total += sum(b * math.log(b / a) for a, b in zip(q, p, strict=True))
    logged = run.state.log_history[0]
    assert logged["distillation"] == logged["loss"] == pytest.approx(total / len(images), rel=1e-3)
    assert total / len(images) > 1e-3
    assert "task_loss" not in logged


def fit_statistics(model, batches):
    """Of what each BatchNorm reads where every one reads the statistics of its batch: the mean over batches."""
    norms = [block.norm for block in model.blocks]
    seen = {norm: [] for norm in norms}
    hooks = [norm.register_forward_pre_hook(lambda own, args: seen[own].append(args[0])) for norm in norms]
    for one in batches:
        model.train()(one)
    for norm, hook in zip(norms, hooks, strict=True):
        hook.remove()
        norm.running_mean = torch.stack([one.mean((0, 2, 3)) for one in seen[norm]]).mean(0)
        norm.running_var = torch.stack([one.var((0, 2, 3)) for one in seen[norm]]).mean(0)
    model.eval()


def perturbed(model, seed, share):
    """Each layer as it is when it is made after the seed, in the order of the network."""
    moved = copy.deepcopy(model)
    torch.manual_seed(seed)
    kinds = {
        torch.nn.Conv2d: lambda one: torch.nn.Conv2d(
            one.in_channels, one.out_channels, one.kernel_size, bias=one.bias is not None
        ),
        torch.nn.Linear: lambda one: torch.nn.Linear(one.in_features, one.out_features),
        torch.nn.BatchNorm2d: lambda one: torch.nn.BatchNorm2d(one.num_features),
    }
    with torch.no_grad():
        for module in moved.modules():
            if type(module) in kinds:
                for value, fresh in zip(module.parameters(), kinds[type(module)](module).parameters(), strict=True):
                    value.copy_((1 - share) * value + share * fresh)
    return moved


def test_a_run_begins_elsewhere_once_and_draws_as_one_that_does_not(tmp_path, tiny_net, primary, monkeypatch):
    calls = []
    inner = Purge.begin
    monkeypatch.setattr(Purge, "begin", lambda self, *args: (calls.append(args[1]), inner(self, *args)))
    common = {"objective": "purge", "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    before = state(tiny_net)
    run = trainer(tmp_path, copy.deepcopy(tiny_net), primary, Images(40, seed=5), **common)
    watched = Watched(run)
    run.train()
    assert calls == [run.args.seed]
    # Early layers go as far as late ones.
    for name in ("stem.weight", "blocks.0.conv.weight", "widen.weight"):
        assert (run.model.get_parameter(name) - before[name]).norm() > 0.2 * before[name].norm()
    again = trainer(tmp_path, copy.deepcopy(tiny_net), primary, Images(40, seed=5), **common)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert len(calls) == 1
    assert [note for note in run.notes if "purge" in note] == [note for note in again.notes if "purge" in note] != []
    plain = trainer(tmp_path / "plain", copy.deepcopy(tiny_net), primary, Images(40, seed=5), trainable="all")
    other = Watched(plain)
    plain.train()
    assert torch.equal(watched.drawn, other.drawn)
    assert all(torch.equal(value, before[name]) for name, value in other.began.state_dict().items())


def test_a_run_without_weights_of_the_objective_begins_where_it_is(tmp_path, tiny_net, primary):
    nothing = {"lambda_primary": 0.0, "lambda_harmful": 0.0}
    run = trainer(tmp_path, copy.deepcopy(tiny_net), primary, None, objective="purge", **nothing)
    watched = Watched(run)
    run.train()
    assert all(torch.equal(value, state(tiny_net)[name]) for name, value in watched.began.state_dict().items())


def test_what_stands_before_the_weights_that_train_stays_as_it_is(tmp_path, tiny_net, primary):
    tiny_net(primary.x)
    model = copy.deepcopy(tiny_net)
    options = {"trainable": ["blocks.1"], "objective_kwargs": {"settling": 0}}
    run = trainer(tmp_path, model, primary, Images(40, seed=5), objective="purge", **options)
    watched = Watched(run)
    run.train()
    changed = {name for name, one in watched.began.state_dict().items() if not torch.equal(one, state(tiny_net)[name])}
    owners = {name.rpartition(".")[0] for name in changed}
    assert owners == {"blocks.1.conv", "blocks.1.norm", "blocks.2.norm"}
    assert all(torch.equal(one, state(tiny_net)[name]) for name, one in run.initial_state_dict().items())


def test_a_stream_gives_statistics_too(tmp_path, tiny_net, primary):
    class Stream(IterableDataset):
        def __iter__(self):
            return (primary[index] for index in range(len(primary)))

    run = trainer(tmp_path, tiny_net, primary, Images(40, seed=5), objective="purge")
    run.train_dataset = Stream()
    batches = list(run._primary_batches())
    assert sum(len(one["labels"]) for one in batches) == len(primary)


def test_a_budget_that_could_not_hold_the_purge_is_refused(tmp_path, tiny_net):
    with pytest.raises(InputError, match="max_accuracy_drop"):
        trainer(tmp_path, tiny_net, Images(300, seed=1), Images(40, seed=5), objective="purge", max_accuracy_drop=1.0)


def test_a_phase_that_nothing_would_train_in_is_refused_before_the_first(tmp_path, tiny_net, primary):
    with pytest.raises(InputError, match="last block alone"):
        trainer(tmp_path, tiny_net, primary, Images(40, seed=5), objective="purge", trainable=["blocks.0"])
