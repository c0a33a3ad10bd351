"""What a checkpoint carries of its run, and what is refused at a resume."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from tiny import Images, TinyNet
from trainers import arguments

from hf_immunize.data.collate import collate_images
from hf_immunize.training.carried import data_digest, model_digest, options_of, refuse_others


@pytest.mark.parametrize(
    "change",
    [
        {"lambda_harmful": 0.4},
        {"lambda_primary": 0.4},
        {"objective": "opt_kappa"},
        {"scale_free": False},
        {"seed": 7},
        {"data_seed": 7},
        {"learning_rate": 0.1},
        {"optim": "adamw_torch"},
        {"lr_scheduler_type": "constant"},
        {"warmup_steps": 2},
        {"weight_decay": 0.1},
        {"per_device_train_batch_size": 4},
        {"per_device_harmful_batch_size": 4},
        {"gradient_accumulation_steps": 2},
        {"max_steps": 7},
        {"max_grad_norm": 0.5},
        {"label_smoothing_factor": 0.1},
        {"trainable": ["score"]},
        {"bf16": True},
    ],
)
def test_an_option_that_decides_the_weights_is_refused_with_both_values(tmp_path, change):
    first, second = options_of(arguments(tmp_path)), options_of(arguments(tmp_path, **change))
    (name,) = change
    with pytest.raises(ValueError, match=rf"The run of here has other options: .*{name} .*, now "):
        refuse_others(first, second, "here")
    refuse_others(first, copy.deepcopy(first), "here")


@pytest.mark.parametrize(
    "change",
    [
        {"logging_steps": 5},
        {"save_strategy": "steps", "save_steps": 3},
        {"eval_strategy": "steps", "eval_steps": 3},
        {"rir_groups": 3},
        {"dataloader_num_workers": 2},
        {"output_dir": "elsewhere"},
        {"hub_token": "hf_secret"},
        {"per_device_eval_batch_size": 3},
    ],
)
def test_what_changes_no_weight_may_be_another(tmp_path, change):
    values = {"output_dir": str(tmp_path)} | change
    refuse_others(options_of(arguments(tmp_path)), options_of(arguments(values.pop("output_dir"), **values)), "here")


def test_evaluations_count_where_they_choose_the_weights(tmp_path):
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"}
    first, second = (options_of(arguments(tmp_path, **best, eval_steps=steps, save_steps=6)) for steps in (2, 3))
    with pytest.raises(ValueError, match="eval_steps 2, now 3"):
        refuse_others(first, second, "here")


def test_data_are_known_by_length_labels_and_some_rows(primary):
    known = data_digest(primary, collate_images)
    assert data_digest(Images(96, seed=1), collate_images) == known
    assert data_digest(Images(96, seed=2), collate_images) != known
    assert data_digest(Images(95, seed=1), collate_images) != known
    assert data_digest(None, collate_images) is None


class Jittered(Images):
    """Augmented by Python's generator, or by one of its own."""

    own = None

    def __getitem__(self, index):
        noise = (self.own or random).random()
        return super().__getitem__(index) | {"pixel_values": self.x[index] + noise}


def test_augmented_images_are_known_again(primary):
    assert data_digest(Jittered(96, seed=1), collate_images) == data_digest(Jittered(96, seed=1), collate_images)
    own = Jittered(96, seed=1)
    own.own = random.Random(3)
    assert data_digest(own, collate_images) == data_digest(own, collate_images)


def test_a_model_is_known_by_what_does_not_train():
    model, other = TinyNet(), TinyNet()
    trained = [name for name, _ in model.named_parameters()]
    assert model_digest(model) != model_digest(other)
    assert model_digest(model, trained) == model_digest(other, trained)
    with torch.no_grad():
        other.blocks[0].norm.running_mean += 1
    assert model_digest(model, trained) != model_digest(other, trained)
