"""evaluate() and predict(): what __init__ takes, also without labels, also under another prefix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from samples import tiny_timm, tiny_vit
from tiny import Images, TinyNet, picture_dataset
from trainers import arguments, trainer

from hf_immunize import ImmunizationArguments, ImmunizationTrainer
from hf_immunize.data.preprocessing import TimmImageProcessor


@pytest.fixture
def run(tmp_path):
    model, processor = tiny_vit(("class 0", "class 1"))
    args = ImmunizationArguments(str(tmp_path), max_steps=1, per_device_train_batch_size=8, use_cpu=True)
    return ImmunizationTrainer(
        model,
        args,
        train_dataset=picture_dataset(24),
        harmful_dataset=picture_dataset(16, seed=1),
        eval_dataset={"a": picture_dataset(20, seed=2), "b": picture_dataset(12, seed=3)},
        processing_class=processor,
    )


def test_several_data_sets_and_any_prefix(run):
    found = run.evaluate()
    assert found["eval_a_rir"] == pytest.approx(1)
    assert found["eval_b_rir"] == pytest.approx(1)
    other = run.evaluate(picture_dataset(12, seed=3), metric_key_prefix="test")
    assert other["test_accuracy"] == found["eval_b_accuracy"]
    assert other["test_rir"] == pytest.approx(1)
    assert "test_rir_spread" in other


def test_the_loss_is_that_of_all_rows_whatever_the_batches(run):
    run.args.per_device_eval_batch_size = 8
    data = picture_dataset(13, seed=4)
    rows = run.train_dataset.__class__(data, run.processing_class)
    images = torch.stack([row["pixel_values"] for row in rows.__getitems__(range(13))])
    with torch.no_grad():
        expected = F.cross_entropy(run.model.eval()(images).logits, torch.tensor(rows.labels))
    assert run.evaluate(data)["eval_loss"] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("labelled", [True, False])
def test_predictions_of_raw_images_with_labels_and_without(run, labelled):
    data = picture_dataset(10, seed=5)
    found = run.predict(data if labelled else data.remove_columns("label"))
    assert found.predictions.shape == (10, 2)
    assert ("test_accuracy" in found.metrics) is labelled
    # RIR is of an evaluation, and takes the harmful images through the model: predicting does not.
    assert "test_rir" not in found.metrics


def test_a_model_that_takes_images_without_a_name_predicts_too(tmp_path):
    model = tiny_timm(num_classes=2)
    run = ImmunizationTrainer(
        model,
        ImmunizationArguments(str(tmp_path), max_steps=1, use_cpu=True),
        train_dataset=picture_dataset(80, size=32),
        harmful_dataset=Images(8, channels=3),
        processing_class=TimmImageProcessor.from_model(model, image_size=8),
    )
    assert run.predict(picture_dataset(6).remove_columns("label")).predictions.shape == (6, 2)


@pytest.mark.parametrize("changes", [{"eval_do_concat_batches": False}, {"eval_accumulation_steps": 1}])
def test_how_batches_are_gathered_changes_no_figure(tmp_path, primary, harmful, changes):
    options = {"per_device_eval_batch_size": 40, "warmup_steps": 0}
    model = TinyNet()
    plain = trainer(tmp_path, model, primary, harmful, **options).evaluate()
    other = trainer(tmp_path, model, primary, harmful, **options, **changes).evaluate()
    assert other["eval_accuracy"] == plain["eval_accuracy"]
    assert other["eval_loss"] == pytest.approx(plain["eval_loss"], rel=1e-5)


def test_losses_alone_where_that_was_asked_for(tmp_path, primary, harmful):
    model = TinyNet()
    plain = trainer(tmp_path, model, primary, harmful).evaluate()
    run = trainer(tmp_path, model, primary, harmful, prediction_loss_only=True)
    found = run.evaluate()
    assert "eval_accuracy" not in found
    assert found["eval_loss"] == pytest.approx(plain["eval_loss"], rel=1e-5)
    assert run.predict(Images(5, labels=False)).predictions is None


@pytest.mark.parametrize("by_batch", [True, False])
def test_metrics_of_the_users_own_get_what_they_asked_for(tmp_path, primary, harmful, by_batch):
    seen = {"losses": 0, "inputs": 0}

    def metrics(prediction, compute_result=True):
        seen["inputs"] += len(prediction.inputs["pixel_values"] if by_batch else prediction.inputs)
        seen["losses"] += len(np.asarray(prediction.losses))
        return {"mine": 1.0} if compute_result else {}

    args = arguments(tmp_path, include_for_metrics=["inputs", "loss"], batch_eval_metrics=by_batch)
    run = ImmunizationTrainer(
        TinyNet(), args, train_dataset=primary, harmful_dataset=harmful, eval_dataset=primary, compute_metrics=metrics
    )
    assert run.evaluate()["eval_mine"] == 1.0
    assert seen["inputs"] == len(primary)
    assert seen["losses"] >= len(primary)


def test_logits_may_be_made_classes_before_metrics(tmp_path, primary, harmful):
    made = ImmunizationTrainer(
        TinyNet(),
        arguments(tmp_path),
        train_dataset=primary,
        harmful_dataset=harmful,
        eval_dataset=primary,
        preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1),
        compute_metrics=lambda found: {"right": float((found.predictions == found.label_ids).mean())},
    )
    found = made.evaluate()
    assert 0 <= found["eval_right"] <= 1
    assert found["eval_loss"] > 0


def test_labels_of_data_given_later_are_checked(tmp_path, primary, harmful):
    made = trainer(tmp_path, TinyNet(), primary, harmful)
    with pytest.raises(ValueError, match="primary evaluation labels run from"):
        made.evaluate(Images(8, n_classes=7))


def test_choices_among_columns_are_said(tmp_path):
    model, processor = tiny_vit(("class 0", "class 1"))
    kept = picture_dataset(16, size=32)
    kept = kept.rename_column("label", "species").add_column("genus", kept["label"][:], feature=kept.features["label"])
    made = ImmunizationTrainer(
        model,
        arguments(tmp_path),
        train_dataset=kept,
        harmful_dataset=picture_dataset(16, size=32, seed=1),
        processing_class=processor,
    )
    assert made.notes == [
        "primary: took the column 'species' for the labels; 'genus' could be meant too (label_column)"
    ]
