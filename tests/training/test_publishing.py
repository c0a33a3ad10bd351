"""`trainer.push_to_hub`: what cannot be published is refused before anything is measured or sent."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny import Images
from trainers import arguments, tiny_vit, trainer

from hf_immunize import ImmunizationTrainer, immunize
from hf_immunize.training import immunize as path
from hf_immunize.training import publishing


def test_a_card_needs_rows_that_no_training_saw(tmp_path, tiny_net, primary, harmful):
    run = trainer(tmp_path, tiny_net, primary, harmful)
    with pytest.raises(ValueError, match="the trainer needs harmful_eval_dataset"):
        run.push_to_hub()
    bare = ImmunizationTrainer(tiny_net, arguments(tmp_path), train_dataset=primary, harmful_dataset=harmful)
    with pytest.raises(ValueError, match="needs eval_dataset and harmful_eval_dataset"):
        bare.push_to_hub()


def test_a_card_reports_one_evaluation(tmp_path, tiny_net, primary, harmful):
    run = ImmunizationTrainer(
        tiny_net,
        arguments(tmp_path),
        train_dataset=primary,
        harmful_dataset=harmful,
        eval_dataset={"near": Images(12), "far": Images(12)},
        harmful_eval_dataset=Images(12),
    )
    with pytest.raises(ValueError, match="eval_dataset holds near, far; a card reports one"):
        run.push_to_hub()


def test_an_upload_in_the_background_is_refused(tmp_path, tiny_net, primary, harmful):
    with pytest.raises(ValueError, match="blocking=False"):
        trainer(tmp_path, tiny_net, primary, harmful).push_to_hub(blocking=False)


def test_checkpoints_are_not_pushed(tmp_path, tiny_net, primary, harmful):
    run = trainer(tmp_path, tiny_net, primary, harmful)
    run._push_from_checkpoint(str(tmp_path / "checkpoint-1"))
    assert not list(tmp_path.iterdir())


@pytest.fixture
def publishable(tmp_path, tiny_net, primary, harmful, monkeypatch):
    """A trainer with all that a card needs, where nothing may be measured."""
    run = ImmunizationTrainer(
        tiny_net,
        arguments(tmp_path, hub_model_id="me/net"),
        train_dataset=primary,
        harmful_dataset=harmful,
        eval_dataset=Images(12),
        harmful_eval_dataset=Images(12),
    )
    monkeypatch.setattr(publishing, "measure", lambda *_, **__: pytest.fail("measured before it was refused"))
    return run


def test_names_of_no_field_are_refused_before_anything_is_measured(publishable):
    with pytest.raises(ValueError, match=r"no argument 'licence'.*Did you mean 'license'"):
        publishable.push_to_hub(licence="mit")


def test_the_groups_that_were_asked_for_are_measured(publishable, monkeypatch):
    asked = []

    def measured(*_, protocol, **__):
        asked.append((protocol.groups, protocol.group_size))
        raise InterruptedError

    monkeypatch.setattr(publishing, "check_can_push", lambda *_, **__: None)
    monkeypatch.setattr(publishing, "measure", measured)
    with pytest.raises(InterruptedError):
        publishable.push_to_hub()
    assert asked == [(publishable.args.rir_groups, publishable.args.rir_group_size)] != [(20, 100)]


def test_a_repository_that_cannot_be_written_is_refused_before_anything_is_measured(publishable):
    publishable.args.hub_model_id = "me/My Net"
    with pytest.raises(ValueError, match="'me/My Net' is not a valid Hub id"):
        publishable.push_to_hub(token="hf_abc")


def test_what_example_scripts_say_of_the_card_is_told_to_be_left_aside(publishable, monkeypatch, caplog):
    sent = {}
    monkeypatch.setattr(publishing, "measure", lambda *_, **__: {})
    monkeypatch.setattr(publishing, "check_can_push", lambda repo_id, token: (token, repo_id))
    monkeypatch.setattr(publishing, "push_to_hub", lambda *_, **options: sent.update(options))
    said = {"finetuned_from": "google/vit", "tasks": "image-classification", "dataset": "beans", "tags": ["vision"]}
    with caplog.at_level("WARNING"):
        publishable.push_to_hub(license="mit", **said)
    assert "leaves dataset, finetuned_from, tasks aside" in caplog.text
    assert sent["metadata"] == {"tags": ["vision"]}
    assert sent["record"].license == "mit"


def test_theta_zero_and_what_really_trained_go_up_with_a_release(publishable, monkeypatch):
    sent = {}
    monkeypatch.setattr(publishing, "measure", lambda *_, **__: {})
    monkeypatch.setattr(publishing, "check_can_push", lambda repo_id, token: (token, repo_id))
    monkeypatch.setattr(publishing, "push_to_hub", lambda *_, **options: sent.update(options))
    own = torch.optim.SGD(publishable.model.parameters(), lr=0.3)
    publishable._given = (own, None)
    publishable.push_to_hub()
    # No commit of the Hub has them.
    torch.testing.assert_close(sent["beside"]["initial"].state_dict(), publishable.initial_state_dict())
    assert sent["record"].training["optimizer"] == "SGD, given"
    assert sent["record"].training["learning_rate"] == 0.3


def test_immunize_pushes_where_its_arguments_say_so(tmp_path, monkeypatch):
    sent = []

    def push(model, repo_id, **options):
        sent.append((repo_id, options))
        return SimpleNamespace(commit_url="https://hub/commit/1")

    monkeypatch.setattr(publishing, "check_can_push", lambda repo_id, token: (token, repo_id))
    monkeypatch.setattr(path, "push_to_hub", push)
    data = [(Images(24, seed=one), Images(12, seed=one + 1)) for one in (0, 5)]
    args = arguments(tmp_path, max_steps=2, push_to_hub=True, hub_model_id="me/net", hub_revision="try")
    run = immunize(tiny_vit(), *data, args, attackers=None)
    ((repo_id, options),) = sent
    assert repo_id == "me/net"
    assert options["revision"] == "try"
    assert options["record"] is run.record
    # The control is none of its own.
    assert set(options["beside"]) == {"initial"}


def test_a_trainer_that_will_push_asks_at_once_and_makes_no_repository(
    tmp_path, tiny_net, primary, harmful, monkeypatch
):
    asked = []

    def check_can_push(repo_id, token=None):
        asked.append((repo_id, token))
        return "secret", f"me/{repo_id}"

    monkeypatch.setattr(publishing, "check_can_push", check_can_push)
    run = trainer(tmp_path / "bird", tiny_net, primary, harmful, push_to_hub=True, hub_token="hf_abc")
    assert asked == [("bird", "hf_abc")]
    assert run.hub_model_id == "me/bird"
