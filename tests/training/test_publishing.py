"""`trainer.push_to_hub`: what cannot be published is refused before anything is measured or sent."""

from __future__ import annotations

import pytest
from tiny import Images
from trainers import arguments, trainer

from hf_immunize import ImmunizationTrainer


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
