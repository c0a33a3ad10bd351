"""What users of a Trainer bring of their own: collators, augmentation, callbacks, heads; honoured, said or refused."""

from __future__ import annotations

import copy
import logging

import numpy as np
import pytest
import torch
from tiny import Images, TinyNet, picture_dataset
from torch import nn
from trainers import arguments, state, tiny_vit, trainer
from transformers import TrainerCallback

from hf_immunize import ImmunizationTrainer
from hf_immunize.data.collate import collate_images
from hf_immunize.data.images import ImageInputs
from hf_immunize.errors import InputError
from hf_immunize.models.extraction import extract_features
from hf_immunize.training.recording import own_parts


def note_of(run):
    return next(one for one in run.notes if one.startswith("Frozen part"))


def prepare(images, return_tensors="pt"):
    pixels = np.stack([np.asarray(one.convert("RGB"), np.float32) for one in images])
    return {"pixel_values": torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255}


def draws(images, return_tensors="pt"):
    found = prepare(images)["pixel_values"]
    return {"pixel_values": found + torch.randn(1)}


class Augmented(ImageInputs):
    """A subclass that changes rows where it is asked for them, which the way for many at once passes by."""

    def __getitem__(self, index):
        row = super().__getitem__(index)
        return {**row, "pixel_values": row["pixel_values"] + 1}


@pytest.mark.parametrize(
    ("kind", "processor", "said"),
    [
        (ImageInputs, prepare, "run once for each image"),
        (ImageInputs, draws, "a row that is read again gives another image"),
        (Augmented, prepare, "images may be augmented on their way"),
    ],
)
def test_the_frozen_part_runs_once_only_where_images_are_the_same_each_time(tmp_path, kind, processor, said):
    data = [kind(picture_dataset(n=32, seed=seed), processor) for seed in (1, 2)]
    run = trainer(tmp_path, TinyNet(), *data, trainable="last")
    run.train()
    assert said in note_of(run)


def test_rows_of_a_subclass_are_its_own_in_measuring_and_in_a_cache(tmp_path):
    data = picture_dataset(n=20, seed=1)
    model = TinyNet().eval()
    plain, own = (extract_features(model, kind(data, prepare)).features for kind in (ImageInputs, Augmented))
    assert not torch.allclose(plain, own)
    ends = []
    for cache in ("on", "off"):
        twin = copy.deepcopy(model)
        rows = Augmented(data, prepare)
        trainer(tmp_path / cache, twin, rows, rows, cache_frozen=cache, trainable="last").train()
        ends.append(state(twin))
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=1e-5, atol=1e-6)


def test_a_collator_of_ones_own_makes_every_batch_or_is_refused(tmp_path, tiny_net, primary):
    def doubled(samples):
        batch = collate_images(samples)
        return {**batch, "pixel_values": 2 * batch["pixel_values"]}

    def made(cache):
        return ImmunizationTrainer(
            tiny_net,
            arguments(tmp_path, cache_frozen=cache),
            train_dataset=primary,
            harmful_dataset=Images(40, seed=5),
            data_collator=doubled,
        )

    with pytest.raises(InputError, match="cache_frozen='on' keeps what each image becomes by itself"):
        made("on").train()
    run = made("auto")
    run.train()
    assert "a data_collator of your own makes the batches" in note_of(run)


@pytest.mark.parametrize("cache", ["on", "off"])
def test_layers_that_are_unfrozen_in_mid_run_end_it(tmp_path, tiny_net, primary, cache):
    class Unfreezes(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step == 2:
                model.blocks[1].requires_grad_(True)

    run = trainer(tmp_path, tiny_net, primary, Images(40, seed=5), trainable=["widen", "score"], cache_frozen=cache)
    run.add_callback(Unfreezes())
    with pytest.raises(InputError, match=r"requires_grad of 3 parameters \(blocks.1"):
        run.train()
    assert run.state.global_step == 2


def test_the_last_checkpoint_goes_by_the_arguments_word_too(tmp_path, tiny_net, primary, caplog):
    def made(**more):
        options = {"save_strategy": "steps", "save_steps": 3, "max_steps": 6, **more}
        return trainer(tmp_path, copy.deepcopy(tiny_net), primary, Images(40, seed=5), **options)

    first = made()
    first.train()
    caplog.clear()
    again = made(resume_from_checkpoint="last")
    again.train(resume_from_checkpoint=again.args.resume_from_checkpoint)
    assert "starts anew" not in caplog.text
    assert all(torch.equal(value, first.model.state_dict()[name]) for name, value in again.model.state_dict().items())
    made(resume_from_checkpoint="last").train()
    assert "This run starts anew: resume_from_checkpoint of the arguments" in caplog.text


def test_smoothing_beside_a_loss_of_ones_own_is_said(tmp_path, tiny_net, primary, caplog):
    def own(outputs, labels, num_items_in_batch=None):
        return nn.functional.cross_entropy(outputs.logits, labels)

    for smoothing in (0.0, 0.1):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            ImmunizationTrainer(
                tiny_net,
                arguments(tmp_path, label_smoothing_factor=smoothing),
                train_dataset=primary,
                harmful_dataset=Images(40, seed=5),
                compute_loss_func=own,
            )
        assert ("label_smoothing_factor is without effect" in caplog.text) == bool(smoothing)


def changed_head():
    model = tiny_vit()
    model.classifier = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    return model


def test_a_model_that_its_configuration_does_not_describe_goes_on_and_finds_its_best(tmp_path, primary):
    class Stops(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 4:
                raise KeyboardInterrupt

    def made(folder, **more):
        torch.manual_seed(0)
        return trainer(tmp_path / folder, changed_head(), primary, Images(40, seed=5), **more)

    saves = {"save_strategy": "steps", "save_steps": 2}
    whole = made("whole")
    whole.train()
    stopped = made("stopped", **saves)
    stopped.add_callback(Stops())
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    goes_on = made("stopped", **saves)
    goes_on.train(resume_from_checkpoint=True)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(goes_on.model.state_dict()[name], value), name

    best = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True}
    run = made("best", metric_for_best_model="eval_loss", **saves, **best)
    kept = {}

    class Keeps(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            kept[state.global_step] = {name: one.clone() for name, one in model.state_dict().items()}

    run.add_callback(Keeps())
    run.train()
    at = min((one for one in run.state.log_history if "eval_loss" in one), key=lambda one: one["eval_loss"])["step"]
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, kept[at][name]), name


class AuxiliaryHead(TinyNet):
    """A second head on the stem, which runs in trainings alone, as in Inception and GoogLeNet."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.grow = nn.Conv2d(6, 12, 1)
        self.aux = nn.Linear(6, 3)

    def forward(self, pixel_values):
        first = self.stem(pixel_values)
        if self.training:
            self.aux(first.mean((2, 3)))
        return self.score(torch.relu(self.widen(self.blocks(self.grow(first)))).mean((2, 3)))


def test_heads_that_run_in_trainings_alone_keep_the_frozen_part_with_every_step(tmp_path, primary):
    torch.manual_seed(0)
    run = trainer(tmp_path, AuxiliaryHead(), primary, Images(40, seed=5), trainable=["widen", "score"])
    run.train()
    assert note_of(run).startswith("Frozen part with every step:")
    assert run.state.global_step == 6


def test_a_record_has_the_optimizer_that_acted(tmp_path, tiny_net, primary):
    class Adagrads(ImmunizationTrainer):
        def create_optimizer(self, model=None):
            trained = [one for one in self.model.parameters() if one.requires_grad]
            self.optimizer = torch.optim.Adagrad(trained, lr=0.5)
            return self.optimizer

    def recorded(kind=ImmunizationTrainer, **more):
        run = kind(
            copy.deepcopy(tiny_net),
            arguments(tmp_path),
            train_dataset=primary,
            harmful_dataset=Images(40, seed=5),
            **more,
        )
        run.train()
        return own_parts(*run.acting_parts(), None, {"optimizer": "sgd", "learning_rate": 0.01})

    plain = recorded()
    assert (plain["optimizer"], plain["learning_rate"]) == ("sgd", 0.01)
    given = recorded(optimizer_cls_and_kwargs=(torch.optim.RMSprop, {"lr": 0.123}))
    assert given["optimizer"].startswith("RMSprop")
    assert given["learning_rate"] == 0.123
    made = recorded(Adagrads)
    assert made["optimizer"].startswith("Adagrad")
    assert made["learning_rate"] == 0.5
