"""What a run knows of itself, in the form of a record."""

from __future__ import annotations

import pytest
import torch
from samples import tiny_timm, tiny_vit
from tiny import Images, TinyNet, picture_dataset
from trainers import arguments
from transformers import TrainerState

from hf_immunize.data.fingerprint import rows_fingerprint
from hf_immunize.data.images import ImageInputs
from hf_immunize.data.task import load_task
from hf_immunize.models.loaded import LoadedModel
from hf_immunize.models.trainable import select_trainable
from hf_immunize.training.recording import data_facts, model_facts, own_parts, steps_made, training_facts


def facts_of(tmp_path, changes, **more):
    selection = select_trainable(TinyNet(), "last", Images(2).x)
    return training_facts(arguments(tmp_path, **changes), selection, steps=6, **more), selection


def test_weights_that_an_objective_does_not_read_are_said_and_stand_in_no_record(tmp_path, caplog):
    said = {
        "r_ill_only": {"lambda_primary": 0.7},
        "r_well_only": {"lambda_harmful": 0.7},
        "imma": {"lambda_primary": 0.7, "scale_free": False},
        "rep_noise": {"lambda_primary": 0.7, "scale_free": False},
        "lto": {"scale_free": False},
        "opt_kappa": {"scale_free": False},
    }
    for name, idle in said.items():
        caplog.clear()
        facts, _ = facts_of(tmp_path, {"objective": name, **idle})
        # Other than in the rest of the record, what stands here is what acted.
        assert facts["objective"].get(next(iter(idle)), 0.0) == 0.0
        assert ("scale_free" in facts["objective"]) == ("scale_free" not in idle)
        words = " and ".join(idle)
        assert f"The objective {name!r} does not read {words}: without effect." in caplog.text
        caplog.clear()
        as_given = {} if name in ("lto", "opt_kappa") else dict.fromkeys(set(idle) - {"scale_free"}, 0.0)
        facts_of(tmp_path, {"objective": name, **as_given})
        assert "without effect" not in caplog.text


def test_the_facts_of_a_training_are_its_arguments_and_what_trained(tmp_path):
    facts, selection = facts_of(tmp_path, {"seed": 5, "lambda_primary": 0.5, "per_device_harmful_batch_size": 8})
    assert facts["objective"] == {
        "name": "condition",
        "lambda_primary": 0.5,
        "lambda_harmful": 1.0,
        "scale_free": True,
    }
    assert facts["trainable"] == {
        "selection": "last",
        "modules": list(selection.modules),
        "n_parameters": selection.n_parameters,
        "n_total": selection.n_total,
    }
    training = facts["training"]
    assert (training["steps"], training["primary_batch_size"], training["harmful_batch_size"]) == (6, 16, 8)
    assert training["optimizer"] == "sgd (momentum=0.9,nesterov=true)"
    assert training["dtype"] == "float32"
    assert not {"fit", "seconds", "notes", "regularizers"} & training.keys()
    assert facts["seeds"] == {"training": 5, "order of the data": 5}


def test_what_not_every_run_has_is_there_where_it_was(tmp_path):
    facts, _ = facts_of(
        tmp_path,
        {"gradient_accumulation_steps": 2, "data_seed": 7, "bf16": True},
        fit={"steps": 3, "learning_rate": 1e-3},
        seconds=1.234,
        notes=["one note"],
    )
    training = facts["training"]
    assert training["regularizers"] == "of each micro-batch, averaged"
    assert (training["fit"], training["seconds"]) == ({"steps": 3, "learning_rate": 1e-3}, 1.2)
    assert (training["notes"], training["dtype"]) == (["one note"], "bfloat16 autocast")
    assert facts["seeds"]["order of the data"] == 7


def test_a_model_says_where_it_came_from():
    loaded = LoadedModel(TinyNet(), None, "me/net", "abc", "timm", "tiny", license="mit")
    assert model_facts(loaded) == {
        "base_model": "me/net",
        "base_model_revision": "abc",
        "base_model_kind": "hub",
        "library": "timm",
        "architecture": "tiny",
        "license": "mit",
    }
    vit, timm_model = model_facts(tiny_vit()[0]), model_facts(tiny_timm())
    assert vit["base_model"] == "ViTForImageClassification passed as a module"
    assert (vit["library"], vit["base_model_revision"], vit["base_model_kind"]) == ("transformers", None, "local")
    assert (timm_model["library"], timm_model["architecture"]) == ("timm", "test_resnet")


def test_what_moves_the_weights_stands_in_the_record(tmp_path):
    changes = {"optim": "adamw_torch", "adam_beta2": 0.9, "lr_scheduler_type": "cosine_with_restarts"}
    facts, _ = facts_of(tmp_path, {**changes, "lr_scheduler_kwargs": {"num_cycles": 7}})
    assert facts["training"]["optimizer"] == "adamw_torch (beta1=0.9, beta2=0.9, eps=1e-08)"
    assert facts["training"]["lr_scheduler"] == "cosine_with_restarts (num_cycles=7)"
    plain = facts_of(tmp_path, {"optim": "adamw_torch"})[0]["training"]
    assert (plain["optimizer"], plain["lr_scheduler"]) == ("adamw_torch", "linear")


def test_an_optimizer_a_schedule_and_a_loss_of_ones_own_stand_for_those_of_the_arguments(tmp_path):
    training = facts_of(tmp_path, {"label_smoothing_factor": 0.1})[0]["training"]
    assert own_parts(None, None, None, training) == training
    own = torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=0.3, momentum=0.5)
    found = own_parts(own, torch.optim.lr_scheduler.StepLR(own, 1), torch.nn.CrossEntropyLoss(), training)
    assert found["optimizer"] == "SGD (momentum=0.5), given"
    assert (found["learning_rate"], found["weight_decay"], found["lr_scheduler"]) == (0.3, 0, "StepLR, given")
    assert not {"label_smoothing", "warmup_steps"} & set(found)
    assert found["steps"] == training["steps"]


def test_data_say_where_they_came_from():
    task = load_task((picture_dataset(12, seed=1), picture_dataset(10, seed=2)))
    facts = data_facts(task)
    assert (facts.n_train, facts.n_eval, facts.classes) == (12, 10, ["class 0", "class 1"])
    assert facts.fingerprint == rows_fingerprint(picture_dataset(12, seed=1), "image", "label")
    assert facts.eval_fingerprint == rows_fingerprint(picture_dataset(10, seed=2), "image", "label")
    assert (facts.source, facts.arguments["seed"]) == ("object", 0)
    rows = picture_dataset(12)
    pair = data_facts((ImageInputs(rows, tiny_vit()[1]), Images(5)))
    assert (pair.n_train, pair.n_eval, pair.fingerprint) == (12, 5, rows_fingerprint(rows, "image", "label"))
    assert data_facts((None, Images(5))).n_train is None
    assert data_facts((Images(6), Images(5))).name == "data passed as an object"


def test_steps_that_were_planned_and_the_one_that_was_kept(tmp_path):
    args = arguments(
        tmp_path,
        max_steps=100,
        warmup_steps=0.1,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        eval_strategy="steps",
        eval_steps=5,
        save_strategy="steps",
        save_steps=5,
    )
    chosen = select_trainable(TinyNet(), "last", Images(2).x)
    state = TrainerState(global_step=20, max_steps=100, best_global_step=10, best_model_checkpoint="checkpoint-10")
    found = training_facts(args, chosen, **steps_made(args, state))["training"]
    assert (found["steps"], found["planned_steps"], found["warmup_steps"], found["kept_step"]) == (20, 100, 10, 10)
    assert found["notes"] == ["The weights are those of step 10, the best by loss; a control has all 20 steps."]
    state = TrainerState(global_step=100, max_steps=100)
    whole = training_facts(args, chosen, **steps_made(args, state))["training"]
    assert not {"planned_steps", "kept_step", "notes"} & set(whole)


@pytest.mark.parametrize(
    ("stated", "recorded"),
    [("cc-by-4.0", "cc-by-4.0"), ("MIT\nLicense ", "MIT License"), ("", None), ("x " * 99, None)],
)
def test_the_licence_of_data_is_what_the_data_set_states(stated, recorded):
    rows = picture_dataset(20)
    rows.info.license = stated
    assert data_facts(load_task(rows)).license == recorded
    inputs = ImageInputs(rows, tiny_vit()[1])
    assert data_facts((inputs, inputs)).license == recorded
