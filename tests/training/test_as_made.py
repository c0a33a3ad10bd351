"""A Trainer trains what it was made for: what was changed since is read anew, or refused."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from datasets import concatenate_datasets
from samples import tiny_timm, tiny_vit
from tiny import Images, TinyNet, picture_dataset
from torch import nn
from torch.utils.data import DataLoader, SequentialSampler
from trainers import arguments, state, trainer

from hf_immunize import ImmunizationTrainer, features_and_logits, load_model
from hf_immunize.data.preprocessing import TimmImageProcessor


def of(kind, folder, **changes):
    return kind(TinyNet(), arguments(folder, **changes), train_dataset=Images(48), harmful_dataset=Images(48, seed=1))


def raw(n, seed=0):
    return picture_dataset(n, n_classes=3, size=32, seed=seed).cast_column("label", NAMES)


NAMES = picture_dataset(1).features["label"].__class__(names=["crow", "owl", "wren"])


def test_theta_zero_is_the_model_at_its_first_step(tmp_path):
    made = trainer(tmp_path, TinyNet(), Images(48), Images(48, seed=1), max_steps=1)
    torch.manual_seed(3)
    other = TinyNet()
    # What is loaded between making the Trainer and training it is where the training starts.
    made.model.load_state_dict(other.state_dict())
    made.train()
    torch.testing.assert_close(made.initial_state_dict(), dict(other.state_dict()))
    made.train()
    torch.testing.assert_close(made.initial_state_dict(), dict(other.state_dict()))
    assert [note for note in made.notes if "earlier call of train()" in note] == [
        "1 steps came before, of an earlier call of train()"
    ]


@pytest.mark.parametrize("thaws", [True, False])
def test_what_trains_cannot_be_changed_behind_the_trainer(tmp_path, thaws):
    """θ0 holds what was to move when the Trainer was made, and the record says what that was."""
    made = trainer(tmp_path, TinyNet(), Images(48), Images(48, seed=1))
    made.model.requires_grad_(thaws)
    with pytest.raises(ValueError, match=r"was changed since the Trainer was made.* argument trainable"):
        made.train()


@pytest.mark.parametrize(("name", "value"), [("lambda_harmful", 0.0), ("trainable", ["all"]), ("objective", "imma")])
def test_what_is_read_once_cannot_be_changed_later(tmp_path, name, value):
    made = trainer(tmp_path, TinyNet(), Images(48), Images(48, seed=1))
    before = state(made.model)
    setattr(made.args, name, value)
    for act in (made.train, made.evaluate):
        with pytest.raises(ValueError, match=rf"{name} is .* now, and was .* Make a new ImmunizationTrainer"):
            act()
    torch.testing.assert_close(state(made.model), before)


def test_what_is_not_served_is_not_served_later_either(tmp_path):
    made = trainer(tmp_path, TinyNet(), Images(48), Images(48, seed=1))
    made.args.fp16_full_eval = True
    for act in (made.train, made.evaluate):
        with pytest.raises(ValueError, match="fp16_full_eval=True is not supported"):
            act()


def test_a_model_put_in_anothers_place_is_refused(tmp_path):
    made = trainer(tmp_path, TinyNet(), Images(48), Images(48, seed=1))
    made.model = copy.deepcopy(made.model)
    for act in (made.train, made.evaluate):
        with pytest.raises(ValueError, match="to which θ0 and what trains belong"):
            act()


def test_data_that_are_set_later_are_read_as_those_given_at_the_start(tmp_path):
    model, processor = tiny_vit()
    made = ImmunizationTrainer(
        model,
        arguments(tmp_path, max_steps=1),
        train_dataset=raw(16),
        harmful_dataset=raw(16, 1),
        processing_class=processor,
    )
    made.train_dataset, made.harmful_dataset, made.eval_dataset = raw(20, 2), raw(20, 3), {"a": raw(8, 4)}
    made.harmful_eval_dataset = raw(12, 5)
    made.train()
    assert {"eval_a_accuracy", "eval_a_rir"} <= set(made.evaluate())
    assert len(made.train_dataset) == 20
    kept = made.eval_dataset["a"]
    made.evaluate()
    assert made.eval_dataset["a"] is kept


def test_a_loss_of_the_users_own_is_the_task_loss(tmp_path):
    seen = []

    def focal(outputs, labels, num_items_in_batch=None):
        losses = F.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch
        seen.append(len(labels))
        return 3 * losses

    def run(folder, **changes):
        torch.manual_seed(0)
        made = ImmunizationTrainer(
            TinyNet(),
            arguments(tmp_path / folder, max_steps=2, gradient_accumulation_steps=2),
            train_dataset=Images(64),
            harmful_dataset=Images(64, seed=1),
            eval_dataset=Images(20),
            **changes,
        )
        before = made.evaluate()["eval_loss"]
        made.train()
        return before, made

    plain, own = run("plain"), run("own", compute_loss_func=focal)
    assert own[0] == pytest.approx(3 * plain[0])
    first = [made.state.log_history[0]["task_loss"] for _, made in (plain, own)]
    assert first[1] == pytest.approx(3 * first[0])
    assert set(seen) == {16, 20}
    assert "the task loss is focal" in own[1].notes


class OwnLoader(ImmunizationTrainer):
    def get_train_dataloader(self):
        return DataLoader(self.train_dataset, batch_size=8, collate_fn=self.data_collator)


class OwnLoss(ImmunizationTrainer):
    def compute_loss(self, model, inputs, return_outputs=False, **options):
        labels = inputs.pop("labels")
        return F.cross_entropy(model(**inputs), labels)


class PrimaryAlone(ImmunizationTrainer):
    def compute_loss(self, model, inputs, return_outputs=False, **options):
        return F.cross_entropy(model(inputs["primary"]["pixel_values"]), inputs["primary"]["labels"])


class OwnForward(ImmunizationTrainer):
    def compute_loss(self, model, inputs, return_outputs=False, **options):
        return model(**inputs).sum()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (OwnLoader, "one task alone, so that nothing would be immunized"),
        (OwnLoss, r"KeyError: 'labels'. A batch of this training holds 'primary' and 'harmful'"),
        (OwnForward, r"TypeError: .*'primary'. A batch of this training holds"),
        (PrimaryAlone, "compute_loss of PrimaryAlone leaves the objective out"),
    ],
)
def test_a_subclass_that_would_not_immunize_is_told(tmp_path, kind, message):
    made = of(kind, tmp_path, cache_frozen="off")
    with pytest.raises(ValueError, match=message):
        made.train()


def test_a_subclass_that_adds_to_the_loss_is_served(tmp_path):
    class Added(ImmunizationTrainer):
        def compute_loss(self, *args, **options):
            return 2 * super().compute_loss(*args, **options)

    assert of(Added, tmp_path, max_steps=1).train().global_step == 1
    plain = {"lambda_primary": 0.0, "lambda_harmful": 0.0, "max_steps": 1, "cache_frozen": "off"}
    assert of(OwnLoader, tmp_path / "loader", **plain).train().global_step == 1


def test_what_nothing_would_ask_is_refused(tmp_path):
    class OwnSampler(ImmunizationTrainer):
        def _get_train_sampler(self, *_):
            return SequentialSampler(self.train_dataset)

    with pytest.raises(ValueError, match="a _get_train_sampler of its own, which nothing asks"):
        of(OwnSampler, tmp_path)
    made = trainer(tmp_path, TinyNet(), Images(48), Images(48, seed=1))
    with pytest.raises(ValueError, match="a trainer for each trial"):
        made.hyperparameter_search(n_trials=2)
    late = arguments(tmp_path)
    late.dataloader_drop_last = True
    with pytest.raises(ValueError, match="dataloader_drop_last=True is not supported"):
        ImmunizationTrainer(TinyNet(), late, train_dataset=Images(48), harmful_dataset=Images(48, seed=1))


def test_a_saved_timm_model_loads_by_itself(tmp_path):
    model = tiny_timm(num_classes=3)
    processor = TimmImageProcessor.from_model(model, 40)
    made = ImmunizationTrainer(
        model,
        arguments(tmp_path / "run", max_steps=1, save_strategy="steps", save_steps=1),
        train_dataset=picture_dataset(16, n_classes=3),
        harmful_dataset=picture_dataset(16, n_classes=3, seed=1),
        processing_class=processor,
    )
    made.train()
    made.save_model(str(tmp_path / "saved"))
    images = torch.rand(2, 3, 40, 40)
    for folder in (tmp_path / "saved", tmp_path / "run" / "checkpoint-1"):
        loaded = load_model(folder)
        torch.testing.assert_close(loaded.model(images), model.eval()(images))
        assert loaded.image_processor.size == processor.size


def test_gradients_that_were_switched_off_are_on_in_a_training(tmp_path):
    made = trainer(tmp_path, TinyNet(), Images(48), Images(48, seed=1), max_steps=1)
    with torch.no_grad():
        assert made.train().global_step == 1


def test_pictures_that_are_trained_on_and_measured_on_are_said(tmp_path, caplog):
    """Here, for data that are set later, and for those of one evaluation."""
    model, processor = tiny_vit()
    mixed = concatenate_datasets([raw(8, 4), raw(16).select([2, 5])])
    with caplog.at_level("WARNING"):
        made = ImmunizationTrainer(
            model,
            arguments(tmp_path),
            train_dataset=raw(16),
            harmful_dataset=raw(16, 1),
            eval_dataset={"a": mixed, "b": raw(8, 4)},
            processing_class=processor,
        )
    told = "2 of 10 pictures to measure on are among those to train on, row 8 first: figures on them flatter"
    assert made.notes == [f"primary evaluation a: {told}"]
    assert told in caplog.text
    made.evaluate(raw(16).select([3, 4]))
    made.harmful_eval_dataset = concatenate_datasets([raw(8, 4), raw(16, 1).select([2, 5])])
    made.evaluate({"c": raw(8, 4)})
    assert [note for note in made.notes if "flatter" in note][1:] == [
        "primary evaluation: 2 of 2 pictures to measure on are among those to train on, row 0 first: figures on them "
        "flatter",
        f"harmful evaluation: {told}",
    ]


def test_a_model_that_would_not_load_again_is_said_and_never_pushed(tmp_path, caplog, monkeypatch):
    model, processor = tiny_vit()
    model.vit.layers[1].mlp.activation_fn = nn.ReLU()
    data = {"train_dataset": raw(16), "harmful_dataset": raw(16, 1), "processing_class": processor}
    with caplog.at_level("WARNING"):
        made = ImmunizationTrainer(model, arguments(tmp_path), **data)
    assert "Saved, it would not load again as it is" in caplog.text
    assert any("layers.1.mlp.activation_fn: ReLU()" in note for note in made.notes)
    monkeypatch.setattr(ImmunizationTrainer, "init_hf_repo", lambda self: None)
    with pytest.raises(ValueError, match="would not load again"):
        ImmunizationTrainer(model, arguments(tmp_path, push_to_hub=True), **data)


def test_mixed_precision_ends_with_the_training(tmp_path):
    """A Trainer leaves autocast on the model; what is measured afterwards, or in the middle, is in float32."""
    seen = []

    class Watched(ImmunizationTrainer):
        def evaluate(self, *args, **kwargs):
            found = super().evaluate(*args, **kwargs)
            seen.append(("forward" in self.model.__dict__, found["eval_rir"]))
            return found

    made = Watched(
        TinyNet(),
        arguments(tmp_path, max_steps=2, bf16=True, eval_strategy="steps", eval_steps=1, eval_on_start=True),
        train_dataset=Images(48),
        harmful_dataset=Images(48, seed=1),
        eval_dataset=Images(40, seed=3),
    )
    made.train()
    assert [wrapped for wrapped, _ in seen[1:]] == [True, True]
    # θ0 against itself, whichever of the two is measured under autocast.
    assert seen[0][1] == 1
    assert "forward" not in made.model.__dict__
    clean, images = TinyNet().eval(), Images(8).x
    clean.load_state_dict(made.model.state_dict())
    torch.testing.assert_close(features_and_logits(made.model.eval(), images), features_and_logits(clean, images))
    again = ImmunizationTrainer(
        clean, made.args, train_dataset=Images(48), harmful_dataset=Images(48, seed=1), eval_dataset=made.eval_dataset
    )
    again._theta_zero = made._theta_zero
    assert again.evaluate()["eval_rir"] == pytest.approx(seen[-1][1], rel=1e-5)
