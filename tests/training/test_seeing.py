"""Objectives that see the model, inside the Trainer: outputs of what trains, features at other weights."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from tiny import Images
from trainers import state, trainer

from hf_immunize.models.head import features_and_logits
from hf_immunize.models.trainable import select_trainable
from hf_immunize.objectives.objective import ModelObjective
from hf_immunize.objectives.registry import OBJECTIVES
from hf_immunize.training.checks import check_objective
from hf_immunize.training.seeing import step_view, watched_outputs

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
    view = step_view(tiny_net, None, *both, features, {}, 0)
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
    with watched_outputs(tiny_net, selection, primary.x[:4]) as found:
        features, _ = features_and_logits(tiny_net, primary.x[:5])
    assert found
    assert set(found) < set(selection.modules)
    assert "score" not in found
    assert all(len(one) == 5 for one in found.values())
    before = dict(found)
    tiny_net(primary.x[:3])
    assert {name: len(one) for name, one in found.items()} == {name: len(one) for name, one in before.items()}
    both = batches(primary, Images(40, seed=5))
    view = step_view(tiny_net, None, *both, (features[:3], features[3:]), found, 0)
    assert all(len(one) == 2 for one in view.hidden.values())


@pytest.mark.parametrize("name", SEEING)
def test_a_training_moves_what_trains_by_the_objective(tmp_path, tiny_net, primary, name):
    harmful = Images(40, seed=5)
    plain, seeing = copy.deepcopy(tiny_net), tiny_net
    trainer(tmp_path / "plain", plain, primary, harmful, lambda_primary=0.0, lambda_harmful=0.0).train()
    run = trainer(tmp_path / "seeing", seeing, primary, harmful, objective=name, lambda_harmful=0.5)
    before = state(seeing)
    run.train()
    logged = next(entry for entry in run.state.log_history if "loss" in entry)
    parts = [value for key, value in logged.items() if key in ("noise", "ascent", "lto_primary", "lto_harmful")]
    assert len(parts) == 2
    assert logged["task_loss"] + sum(parts) == pytest.approx(logged["loss"], rel=1e-4)
    moved = {key for key, value in seeing.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {key for key, value in seeing.named_parameters() if value.requires_grad}
    assert any(not torch.equal(seeing.state_dict()[key], plain.state_dict()[key]) for key in moved)


@pytest.mark.parametrize("name", SEEING)
def test_cached_activations_change_nothing(tmp_path, tiny_net, primary, name):
    harmful = Images(40, seed=5)
    ends = []
    for cache in ("on", "off"):
        model = copy.deepcopy(tiny_net)
        run = trainer(tmp_path / cache, model, primary, harmful, objective=name, cache_frozen=cache, max_steps=3)
        run.train()
        ends.append(state(model))
    for key, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][key], rtol=1e-5, atol=1e-6)


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
        with pytest.raises(ValueError, match="label"):
            trainer(tmp_path, tiny_net, primary, Images(40, labels=False), objective=name)


def test_an_objective_that_processes_would_compute_otherwise_is_refused():
    class Several:
        world_size = 2

    for name in SEEING:
        objective = OBJECTIVES[name]()
        assert isinstance(objective, ModelObjective)
        if objective.exact_over_processes:
            check_objective(objective, Several())
        else:
            with pytest.raises(ValueError, match="2 processes"):
                check_objective(objective, Several())
