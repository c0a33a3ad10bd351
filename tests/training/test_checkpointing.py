"""Checkpoints: resume, the best model, no token on the disk."""

from __future__ import annotations

import pytest
import torch
from tiny import TinyNet
from trainers import tiny_vit, trainer
from transformers import TrainerCallback, ViTForImageClassification


@pytest.mark.parametrize("accumulation", [1, 2])
def test_resume_in_mid_epoch_gives_the_same_weights_bit_for_bit(tmp_path, primary, harmful, accumulation):
    def fresh():
        torch.manual_seed(0)
        return TinyNet(dropout=0.2)

    common = {"max_steps": 8, "save_strategy": "steps", "save_steps": 4, "gradient_accumulation_steps": accumulation}
    whole = fresh()
    trainer(tmp_path / "whole", whole, primary, harmful, **common).train()

    class Stop(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            control.should_training_stop = True

    cut = fresh()
    first = trainer(tmp_path / "cut", cut, primary, harmful, **common)
    first.add_callback(Stop())
    first.train()
    assert first.state.global_step == 4
    resumed = fresh()
    again = trainer(tmp_path / "cut", resumed, primary, harmful, **common)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 8
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_best_model_by_rir_is_loaded_at_the_end(tmp_path, tiny_net, primary, harmful):
    run = trainer(
        tmp_path,
        tiny_net,
        primary,
        harmful,
        max_steps=6,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_rir",
    )
    run.train()
    scores = [entry["eval_rir"] for entry in run.state.log_history if "eval_rir" in entry]
    assert len(scores) == 3
    assert run.state.best_metric == max(scores)
    assert run.evaluate()["eval_rir"] == pytest.approx(max(scores), rel=1e-5)


def test_a_transformers_model_resumes_and_loads_its_best(tmp_path, primary, harmful):
    common = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "learning_rate": 0.1}
    whole = tiny_vit()
    trainer(tmp_path / "whole", whole, primary, harmful, **common).train()
    resumed = tiny_vit()
    trainer(tmp_path / "whole", resumed, primary, harmful, **common).train(
        resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3")
    )
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name

    evaluating = {"eval_strategy": "steps", "eval_steps": 3, "load_best_model_at_end": True}
    best = tiny_vit()
    run = trainer(tmp_path / "best", best, primary, harmful, metric_for_best_model="eval_loss", **common, **evaluating)
    run.train()
    stored = ViTForImageClassification.from_pretrained(run.state.best_model_checkpoint)
    for (name, a), b in zip(best.state_dict().items(), stored.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_token_does_not_reach_the_disk(tmp_path, tiny_net, primary, harmful):
    run = trainer(tmp_path, tiny_net, primary, harmful, hub_token="hf_secretsecretsecret")
    run.save_model()
    assert run.args.hub_token == "hf_secretsecretsecret"
    assert b"secretsecret" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_the_best_model_is_kept_where_evaluations_are_more_frequent_than_checkpoints(tmp_path, primary, harmful):
    """For some seed the best evaluation falls between two checkpoints: what is told must be what is loaded."""
    between = 0
    for seed in range(4):
        torch.manual_seed(seed)
        run = trainer(
            tmp_path / str(seed),
            TinyNet(),
            primary,
            harmful,
            max_steps=12,
            learning_rate=0.05,
            eval_strategy="steps",
            eval_steps=2,
            save_strategy="steps",
            save_steps=6,
            load_best_model_at_end=True,
            metric_for_best_model="eval_rir",
        )
        run.train()
        between += run.state.best_global_step not in (6, 12)
        assert run.evaluate()["eval_rir"] == pytest.approx(run.state.best_metric, rel=1e-5)
    assert between


def test_a_resume_without_theta_zero_is_refused(tmp_path, primary, harmful):
    common = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    trainer(tmp_path, TinyNet(), primary, harmful, **common).train()
    (tmp_path / "initial_weights.safetensors").unlink()
    with pytest.raises(ValueError, match=r"No θ0 is stored beside .*Start anew"):
        trainer(tmp_path, TinyNet(), primary, harmful, **common).train(resume_from_checkpoint=True)
