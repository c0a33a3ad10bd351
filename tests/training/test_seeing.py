"""Objectives that see the model, inside the Trainer: outputs of what trains, features at other weights."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from tiny import Images, TinyNet
from torch import nn
from trainers import state, trainer
from transformers import TrainerCallback, ViTConfig, ViTForImageClassification

from hf_immunize.errors import InputError
from hf_immunize.models.head import features_and_logits
from hf_immunize.models.trainable import batch_norms_behind, select_trainable
from hf_immunize.objectives.objective import ModelObjective
from hf_immunize.objectives.registry import OBJECTIVES
from hf_immunize.training.checks import check_objective
from hf_immunize.training.seeing import Architecture, step_view, watched_outputs
from hf_immunize.training.theta_zero import ThetaZero

PARTS = {
    "rep_noise": ("noise", "ascent"),
    "lto": ("lto_primary", "lto_harmful"),
    "simulated_attackers": ("ignorance", "r_well", "r_ill"),
    "purge": ("distillation",),
}
SEEING = sorted(name for name, one in OBJECTIVES.items() if one.sees_model)


def batches(primary, harmful):
    return (
        {"pixel_values": primary.x[:8], "labels": primary.y[:8]},
        {"pixel_values": harmful.x[:6], "labels": harmful.y[:6]},
    )


def test_features_at_other_weights_are_those_of_a_model_with_them(tiny_net, primary):
    harmful = Images(40, seed=5)
    both = batches(primary, harmful)
    selection = select_trainable(tiny_net, "last", primary.x[:4])
    features = tuple(features_and_logits(tiny_net, one["pixel_values"])[0] for one in both)
    view = step_view(Architecture(tiny_net, primary.x[:4]), None, *both, features, {}, (0, 0))
    assert set(view.parameters) == {name for name, one in tiny_net.named_parameters() if one.requires_grad}
    assert 0 < len(view.parameters) < len(list(tiny_net.parameters()))
    torch.testing.assert_close(view.features(view.parameters, both[1]), features[1])
    moved = {name: value + 0.1 for name, value in view.parameters.items()}
    other = copy.deepcopy(tiny_net)
    other.load_state_dict(tiny_net.state_dict() | {name: one.detach() for name, one in moved.items()})
    torch.testing.assert_close(
        view.features(moved, both[1]), features_and_logits(other, both[1]["pixel_values"])[0], rtol=1e-5, atol=1e-6
    )
    assert selection.n_parameters == sum(one.numel() for one in view.parameters.values())


def test_outputs_of_what_trains_are_read_and_the_logits_are_not(tiny_net, primary):
    selection = select_trainable(tiny_net, "last", primary.x[:4])
    with watched_outputs(tiny_net, primary.x[:4]) as found:
        features, _ = features_and_logits(tiny_net, primary.x[:5])
    assert found
    assert set(found) < set(selection.modules)
    assert "score" not in found
    assert all(len(one) == 5 for one in found.values())
    before = dict(found)
    tiny_net(primary.x[:3])
    assert {name: len(one) for name, one in found.items()} == {name: len(one) for name, one in before.items()}
    both = batches(primary, Images(40, seed=5))
    view = step_view(Architecture(tiny_net, primary.x[:4]), None, *both, (features[:3], features[3:]), found, (0, 0))
    assert all(len(one) == 2 for one in view.hidden.values())


@pytest.mark.parametrize("selection", ["all", "blocks.*", ["blocks.1", "score"]])
def test_hidden_outputs_are_read_whatever_way_the_trained_part_was_named(tmp_path, tiny_net, primary, selection):
    run = trainer(
        tmp_path, tiny_net, primary, Images(40, seed=5), objective="rep_noise", lambda_harmful=1.0, trainable=selection
    )
    run.train()
    assert next(entry for entry in run.state.log_history if "loss" in entry)["noise"] > 0


def test_a_head_alone_has_no_hidden_outputs(tmp_path, tiny_net, primary):
    with pytest.raises(InputError, match="blocks before the head, and the head trains alone"):
        trainer(tmp_path, tiny_net, primary, Images(40, seed=5), objective="rep_noise", trainable=["score"])


@pytest.mark.parametrize("name", SEEING)
def test_a_training_moves_what_trains_by_the_objective(tmp_path, tiny_net, primary, name):
    harmful = Images(40, seed=5)
    plain, seeing = copy.deepcopy(tiny_net), tiny_net
    trainer(tmp_path / "plain", plain, primary, harmful, lambda_primary=0.0, lambda_harmful=0.0).train()
    run = trainer(tmp_path / "seeing", seeing, primary, harmful, objective=name, lambda_harmful=0.5)
    before = state(seeing)
    run.train()
    logged = next(entry for entry in run.state.log_history if "loss" in entry)
    parts = [logged[key] for key in PARTS[name]]
    assert logged.get("task_loss", 0) + sum(parts) == pytest.approx(logged["loss"], rel=1e-4)
    moved = {key for key, value in seeing.named_parameters() if not torch.equal(value, before[key])}
    still = {key for key, value in seeing.named_buffers() if torch.equal(value, before[key])}
    assert still == (set() if name == "purge" else {key for key, _ in seeing.named_buffers()})
    assert moved == {key for key, value in seeing.named_parameters() if value.requires_grad}
    assert any(not torch.equal(seeing.state_dict()[key], plain.state_dict()[key]) for key in moved)


def small_vit():
    torch.manual_seed(0)
    sizes = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
    return timm.models.VisionTransformer(**sizes)


def layered_vit():
    torch.manual_seed(0)
    sizes = {"image_size": 8, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 3, "num_labels": 3}
    return ViTForImageClassification(ViTConfig(**sizes, num_attention_heads=2, intermediate_size=24))


@pytest.mark.parametrize("made", [TinyNet, small_vit, layered_vit])
@pytest.mark.parametrize("name", [*SEEING, "condition"])
def test_cached_activations_change_nothing(tmp_path, primary, name, made):
    torch.manual_seed(0)
    tiny_net, harmful = made(), Images(40, seed=5)
    ends = []
    for cache in ("on", "off"):
        model = copy.deepcopy(tiny_net)
        run = trainer(
            tmp_path / cache, model, primary, harmful, objective=name, cache_frozen=cache, trainable="last", max_steps=3
        )
        run.train()
        ends.append(state(model))
    for key, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][key], rtol=1e-5, atol=1e-6)


def test_the_logits_of_theta_zero_are_its_own_without_dropout_whatever_the_model_became(primary):
    torch.manual_seed(0)
    model = TinyNet(dropout=0.5)
    model.blocks[2].conv.weight = model.blocks[0].conv.weight
    select_trainable(model, "all", primary.x[:4])
    before, one = copy.deepcopy(model).eval(), batches(primary, primary)[0]
    theta_zero = ThetaZero(model, batch_norms_behind(model))
    with torch.no_grad():
        for value in (*model.parameters(), *(own for own in model.buffers() if own.is_floating_point())):
            value.add_(0.3)
    model.train()
    seen = Architecture(model, primary.x[:4])
    features = torch.zeros(8, 24), torch.zeros(0, 24)
    view = step_view(seen, None, one, one, features, {}, (0, 0), theta_zero=theta_zero)
    found = view.initial_logits()
    assert not found.requires_grad
    torch.testing.assert_close(found, before(one["pixel_values"]))
    assert all(module.training for module in model.modules())


def test_the_loss_of_a_step_holds_the_loss_after_adaptation(tmp_path, tiny_net, primary):
    """A copy, adapted by an optimizer, beside what the Trainer adds to the task's loss."""
    harmful = Images(40, seed=5)
    run = trainer(tmp_path, tiny_net, primary, harmful, objective="lto", lambda_primary=0.0, lambda_harmful=1.0)
    one, other = batches(primary, harmful)
    tiny_net.eval()
    loss = run.compute_loss(tiny_net, {"primary": one, "harmful": other})
    model = copy.deepcopy(tiny_net)
    head = torch.nn.Parameter(torch.zeros(24, 3))
    optimizer = torch.optim.SGD([*(p for p in model.parameters() if p.requires_grad), head], lr=0.01)
    F.cross_entropy(features_and_logits(model, other["pixel_values"][:3])[0] @ head, other["labels"][:3]).backward()
    optimizer.step()
    adapted = F.cross_entropy(features_and_logits(model, other["pixel_values"][3:])[0] @ head, other["labels"][3:])
    task = F.cross_entropy(features_and_logits(tiny_net, one["pixel_values"])[1], one["labels"])
    torch.testing.assert_close(loss, task - adapted, rtol=1e-5, atol=1e-6)


def test_labels_that_an_objective_needs_are_asked_for_before_it_runs(tmp_path, tiny_net, primary):
    for name in SEEING:
        if not OBJECTIVES[name].needs_harmful_labels:
            continue
        with pytest.raises(ValueError, match="label"):
            trainer(tmp_path, tiny_net, primary, Images(40, labels=False), objective=name)


def test_an_objective_that_processes_would_compute_otherwise_is_refused():
    class Several:
        world_size = 2
        max_accuracy_drop = None

    for name in SEEING:
        objective = OBJECTIVES[name]()
        assert isinstance(objective, ModelObjective)
        if objective.exact_over_processes:
            check_objective(objective, Several())
        else:
            with pytest.raises(ValueError, match="2 processes"):
                check_objective(objective, Several())


def test_a_step_of_simulated_attackers_goes_down_two_unit_gradients(tmp_path, tiny_net, primary):
    """The step of plain gradient descent: the gradient of all but the attackers and theirs, each of norm 1 (λ_H = 0.5).

    `condition` gives the former on the same batches.
    """
    harmful = Images(40, seed=5)
    before = state(tiny_net)
    common = {"optim": "sgd", "optim_args": "momentum=0.0", "learning_rate": 1e-3, "max_grad_norm": 0.0, "max_steps": 1}
    common |= {"per_device_harmful_batch_size": 40, "trainable": "all", "warmup_steps": 0}
    weights = []
    for name, lambda_harmful in (("condition", 0.05), ("simulated_attackers", 0.5)):
        model = copy.deepcopy(tiny_net)
        given = {"objective": name, "lambda_harmful": lambda_harmful}
        trainer(tmp_path / name, model, primary, harmful, **given, **common).train()
        weights.append({name: (before[name] - one) / 1e-3 for name, one in state(model).items()})
    kept, both = weights
    norm = torch.stack([one.square().sum() for one in kept.values()]).sum().sqrt()
    attack = {name: both[name] - kept[name] / norm for name in both}
    length = torch.stack([one.square().sum() for one in attack.values()]).sum().sqrt()
    assert length.item() == pytest.approx(0.5, rel=2e-2)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("simulated_attackers", {"attackers": 2, "inner_steps": 2, "lives": [4, 6]}),
        ("purge", {"settling": 0.0}),
        # Stopped before, at and after the step at which the optimizer begins anew.
        ("purge", {"settling": 0.5}),
        ("purge", {"settling": 0.625}),
        ("purge", {"settling": 0.7}),
    ],
)
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, tiny_net, primary, name, options):
    harmful = Images(40, seed=5)
    common = {
        "objective": name,
        "objective_kwargs": options,
        "trainable": "all",
        "max_steps": 8,
        "save_strategy": "steps",
        "save_steps": 3,
    }
    whole, cut = copy.deepcopy(tiny_net), copy.deepcopy(tiny_net)
    trainer(tmp_path / "whole", whole, primary, harmful, **common).train()
    run = trainer(tmp_path / "cut", cut, primary, harmful, **common)
    run.add_callback(StopAt(5))
    run.train()
    resumed = copy.deepcopy(tiny_net)
    again = trainer(tmp_path / "cut", resumed, primary, harmful, **common)
    again.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-3"))
    assert all(torch.equal(value, state(tiny_net)[key]) for key, value in again.initial_state_dict().items())
    for (key, one), other in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other), key
    assert (tmp_path / "whole" / "checkpoint-3" / "objective.pt").is_file() == (name == "simulated_attackers")


class StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


def test_batch_norms_of_the_named_parameters_read_their_batch_within(primary):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)).eval()
    before = state(model)
    seen = Architecture(model, primary.x[:4])
    with seen.batch_statistics(["1.weight", "0.bias"]):
        assert (model[1].training, model[3].training) == (True, False)
        out = model[1](model[0](primary.x[:8]))
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    assert not model[1].training
    assert model[1].track_running_stats
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


def test_the_last_block_is_drawn_anew_by_its_seed_and_the_head_is_not(tiny_net, primary):
    seen = Architecture(tiny_net, primary.x[:4])
    found = seen.redrawn(3)
    assert found
    assert set(found) <= seen.last_block
    assert not any(name.startswith("score") for name in found)
    assert all(torch.equal(one, seen.redrawn(3)[name]) for name, one in found.items())
    assert all(not torch.equal(one, tiny_net.get_parameter(name)) for name, one in found.items() if one.ndim > 1)
    select_trainable(tiny_net, "last", primary.x[:4])
    assert seen.last_block == {name for name, one in tiny_net.named_parameters() if one.requires_grad}


def test_while_settling_the_last_block_alone_moves_and_the_optimizer_begins_anew(tmp_path, tiny_net, primary):
    harmful = Images(40, seed=5)
    steps = {"max_steps": 6, "warmup_steps": 0, "logging_steps": 1, "objective_kwargs": {"settling": 1 / 3}}
    run = trainer(tmp_path, tiny_net, primary, harmful, objective="purge", trainable="all", **steps)
    seen, held = {}, {}
    names = {parameter: name for name, parameter in tiny_net.named_parameters()}

    class Kept(TrainerCallback):
        def on_step_end(self, args, state_, control, **kwargs):
            seen[state_.global_step] = state(tiny_net)
            held[state_.global_step] = {names[one] for one in kwargs["optimizer"].state}

    run.add_callback(Kept())
    run.train()
    last = run._architecture.last_block
    moved = {name for name, one in seen[6].items() if not torch.equal(one, seen[4][name])}
    assert moved
    assert moved <= last
    early = {name for name, one in seen[4].items() if not torch.equal(one, seen[3][name])}
    assert early - last
    # What the optimizer remembers is of the steps since.
    assert held[4] - last
    assert held[5] <= last
    assert all(one.requires_grad for one in tiny_net.parameters())
