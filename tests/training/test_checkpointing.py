"""Checkpoints: resume, the best model, no token on the disk."""

from __future__ import annotations

import copy
import multiprocessing
import os
import shutil

import pytest
import torch
from kills import without_clock
from tiny import Images, TinyNet
from trainers import tiny_vit, trainer
from transformers import TrainerCallback, ViTForImageClassification

from hf_immunize.errors import OutputError, OutputExistsError


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


EVERY_TWO = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2}


def dropping():
    torch.manual_seed(0)
    return TinyNet(dropout=0.3)


def test_a_resume_without_theta_zero_is_refused(tmp_path, primary, harmful):
    trainer(tmp_path, TinyNet(), primary, harmful, **EVERY_TWO).train()
    (tmp_path / "initial_weights.safetensors").unlink()
    again = trainer(tmp_path, TinyNet(), primary, harmful, **EVERY_TWO)
    with pytest.raises(ValueError, match=r"θ0 in .*initial_weights.* is missing.*Start anew"):
        again.train(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]
)
def test_without_a_state_the_checkpoint_before_is_taken_and_ends_in_the_same_weights(
    tmp_path, primary, harmful, name, caplog
):
    whole = dropping()
    trainer(tmp_path, whole, primary, harmful, **EVERY_TWO).train()
    # As a run that stopped after its fourth step left them.
    shutil.rmtree(tmp_path / "checkpoint-6")
    (tmp_path / "checkpoint-4" / name).unlink()
    again = dropping()
    run = trainer(tmp_path, again, primary, harmful, **EVERY_TWO)
    run.train(resume_from_checkpoint=True)
    assert f"checkpoint-4/{name} is missing. The one before is taken: checkpoint-2" in caplog.text
    for (key, a), b in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), key
    # One that was asked for by its name is refused.
    (tmp_path / "checkpoint-2" / name).unlink()
    with pytest.raises(ValueError, match=rf"checkpoint-2 is no whole checkpoint: .*{name} is missing"):
        trainer(tmp_path, dropping(), primary, harmful, **EVERY_TWO).train(str(tmp_path / "checkpoint-2"))


@pytest.mark.parametrize("evaluation", [{}, {"eval_strategy": "steps", "eval_steps": 1, "eval_on_start": True}])
def test_measuring_draws_nothing_from_the_training(tmp_path, primary, harmful, evaluation):
    plain, measured = dropping(), dropping()
    trainer(tmp_path / "plain", plain, primary, harmful).train()
    run = trainer(tmp_path / "measured", measured, primary, harmful, **evaluation)
    run.evaluate()
    run.predict(primary)
    run.train()
    for (key, a), b in zip(plain.state_dict().items(), measured.state_dict().values(), strict=True):
        assert torch.equal(a, b), key


def test_a_finished_run_does_no_step_and_is_what_it_was(tmp_path, primary, harmful):
    common = EVERY_TWO | {"lr_scheduler_type": "constant", "logging_steps": 4}
    common |= {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True}
    common |= {"metric_for_best_model": "eval_rir"}
    whole, again = dropping(), dropping()
    first = trainer(tmp_path, whole, primary, harmful, **common)
    output = first.train()
    run = trainer(tmp_path, again, primary, harmful, **common)
    run.compute_loss = None
    found = run.train(resume_from_checkpoint=True)
    for (key, a), b in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), key
    assert (found.global_step, found.training_loss) == (6, pytest.approx(output.training_loss, rel=1e-6))
    assert run.state.best_model_checkpoint == first.state.best_model_checkpoint
    assert run.notes == first.notes
    assert run.seconds == pytest.approx(first.seconds, rel=0.5)


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_resumed_run_logs_what_the_uninterrupted_one_logs(tmp_path, primary, harmful, stop):
    common = {"max_steps": 6, "save_strategy": "steps", "save_steps": 1, "logging_steps": 4}

    class Stop(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == stop

    def trained(name, resume=False, stops=False):
        run = trainer(tmp_path / name, dropping(), primary, harmful, **common)
        if stops:
            run.add_callback(Stop())
        loss = run.train(resume_from_checkpoint=resume).training_loss
        return loss, without_clock(run.state.log_history)

    whole = trained("whole")
    trained("cut", stops=True)
    assert trained("cut", resume=True) == whole


@pytest.mark.parametrize("change", [{"lambda_harmful": 0.2}, {"seed": 1}, {"objective": "r_ill_only"}])
def test_a_run_goes_on_with_its_own_options_alone(tmp_path, primary, harmful, change):
    trainer(tmp_path, TinyNet(), primary, harmful, **EVERY_TWO).train()
    run = trainer(tmp_path, TinyNet(), primary, harmful, **EVERY_TWO, **change)
    ((name, value),) = change.items()
    with pytest.raises(ValueError, match=rf"checkpoint-6 has other options: .*{name} .*, now {value!r}"):
        run.train(resume_from_checkpoint=True)


def test_a_run_goes_on_with_its_own_data_and_model_alone(tmp_path, primary, harmful):
    model = TinyNet()
    trainer(tmp_path, copy.deepcopy(model), primary, harmful, **EVERY_TWO).train()
    for data in ((Images(96, seed=9), harmful), (primary, Images(40, n_classes=4, seed=9, labels=False))):
        with pytest.raises(ValueError, match=r"(train|harmful)_dataset '.*', now '"):
            trainer(tmp_path, copy.deepcopy(model), *data, **EVERY_TWO).train(resume_from_checkpoint=True)
    torch.manual_seed(99)
    with pytest.raises(ValueError, match=r"other options: model '.*', now '"):
        trainer(tmp_path, TinyNet(), primary, harmful, **EVERY_TWO).train(resume_from_checkpoint=True)


def test_weights_alone_are_nothing_to_go_on_from(tmp_path, primary, harmful):
    common = EVERY_TWO | {"save_only_model": True}
    trainer(tmp_path, TinyNet(), primary, harmful, **common).train()
    with pytest.raises(ValueError, match=r"weights alone \(save_only_model\)"):
        trainer(tmp_path, TinyNet(), primary, harmful, **common).train(resume_from_checkpoint=True)


def test_a_full_disk_is_one_line_and_the_checkpoint_before_is_usable(tmp_path, primary, harmful):
    resource = pytest.importorskip("resource")
    whole, again = dropping(), dropping()
    trainer(tmp_path / "whole", whole, primary, harmful, **EVERY_TWO).train()
    folder = tmp_path / "full"

    def fills_up(run, limit):
        save = run._save_checkpoint

        def saved(*args):
            if run.state.global_step == 4:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            save(*args)

        run._save_checkpoint = saved

    for limit in (10, 7_000, 18_000):
        run = trainer(folder, dropping(), primary, harmful, **EVERY_TWO)
        fills_up(run, limit)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            with pytest.raises(OutputError) as told:
                run.train()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert str(told.value).startswith(f"{folder / 'checkpoint-4'} could not be written (")
        assert f"{folder / 'checkpoint-2'} is untouched. Make room" in str(told.value)
        assert "\n" not in str(told.value)
        assert {path.name for path in folder.iterdir()} == {"checkpoint-2", "initial_weights.safetensors"}
    trainer(folder, again, primary, harmful, **EVERY_TWO).train(resume_from_checkpoint=True)
    for (key, a), b in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), key


def test_a_second_run_in_a_folder_is_refused_before_its_first_step(tmp_path, primary, harmful):
    class Second(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            child = multiprocessing.get_context("fork").Process(target=self.run)
            child.start()
            child.join()
            self.status = child.exitcode

        def run(self):
            # A child of a process that uses a GPU can use none.
            second = trainer(tmp_path, TinyNet(), primary, harmful, use_cpu=True, **EVERY_TWO)
            second.compute_loss = None
            try:
                second.train()
            except OutputExistsError as error:
                os._exit(7 if "Another run writes into" in str(error) else 8)
            os._exit(9)

    first, second = trainer(tmp_path, TinyNet(), primary, harmful, **EVERY_TWO), Second()
    first.add_callback(second)
    first.train()
    assert second.status == 7
