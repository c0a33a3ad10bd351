"""What is checked of model and data before a run."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from samples import tiny_timm, tiny_vit
from tiny import Images, TinyNet, picture_dataset
from trainers import arguments, trainer

from hf_immunize.data.collate import collate_images
from hf_immunize.data.images import ImageInputs
from hf_immunize.training.checks import (
    check_evaluation,
    check_gradients,
    check_model,
    check_steps,
    checkpoint_activations_of_timm,
    first_batches,
)


def checked(harmful_labels_needed=False, model=None, **sources):
    sources = {name.replace("_", " "): one for name, one in sources.items()}
    model = TinyNet().eval() if model is None else model
    return first_batches(model, sources, collate_images, torch.device("cpu"), harmful_labels_needed)


def test_the_first_two_samples_are_a_batch_to_probe_with():
    primary = Images(20, seed=1)
    batch = checked(primary=primary, harmful=Images(9, n_classes=7, labels=False), primary_evaluation=None)
    assert torch.equal(batch["pixel_values"], primary.x[:2])
    assert batch["labels"].tolist() == primary.y[:2].tolist()


def test_evaluation_data_alone_or_several_of_them_will_do():
    several = {"near": Images(6), "far": Images(1)}
    assert checked(primary=None, harmful=None, primary_evaluation=several)["pixel_values"].shape == (2, 3, 8, 8)


class Known(Images):
    """All labels are known without an image."""

    def __init__(self, labels) -> None:
        super().__init__(len(labels))
        self.labels, self.y = labels, torch.tensor(labels)


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({}, "there are no images to work on"),
        ({"primary": Images(0)}, "The primary data set is empty"),
        ({"primary": Images(4), "harmful": Images(4, channels=1)}, "All images must have one shape"),
        ({"primary": Images(4, labels=False)}, "The primary data have no labels"),
        ({"primary_evaluation": {"far": Images(4, labels=False)}}, "The primary evaluation far data have no labels"),
        ({"primary": Known([0, 1, 2, 0, 5])}, "labels run from"),
        ({"primary": Images(4), "harmful": Images(4, labels=False), "harmful_labels_needed": True}, "harmful labels"),
    ],
)
def test_what_does_not_fit_together_is_said(sources, message):
    with pytest.raises(ValueError, match=message):
        checked(**sources)


def test_a_collator_that_does_not_fit_the_samples_is_said():
    images = ImageInputs(picture_dataset(4), tiny_vit()[1])

    def collate(samples):
        return {"pixel_values": samples[0]["pixel_values"][None], "labels": torch.tensor([samples[0]["label"]])}

    with pytest.raises(
        ValueError, match=r"no batch of the primary data \(KeyError: 'label'\): their samples hold pixel"
    ):
        first_batches(TinyNet(), {"primary": images}, collate, torch.device("cpu"), False)


@pytest.mark.parametrize(
    "made", [lambda x: (x, x), lambda x: {"images": x, "labels": x}, lambda x: {"pixel_values": 3}]
)
def test_a_collator_of_another_form_is_said(made):
    with pytest.raises(ValueError, match="data_collator must give a mapping with 'pixel_values', a tensor"):
        first_batches(TinyNet(), {"primary": Images(4)}, lambda _: made(torch.zeros(2)), torch.device("cpu"), False)


def test_labels_of_later_rows_are_checked_too():
    late = (
        picture_dataset(8, n_classes=4)
        .sort("label")
        .with_transform(
            lambda batch: {"pixel_values": [torch.randn(3, 8, 8) for _ in batch["label"]], "labels": batch["label"]}
        )
    )
    with pytest.raises(ValueError, match=r"run from \d to 3, but the model's head has 3 classes"):
        first_batches(TinyNet(), {"primary": late}, collate_images, torch.device("cpu"), False)


def test_harmful_labels_may_be_of_any_task():
    checked(primary=Images(4), harmful=Known([40, 50, 60]), harmful_labels_needed=True)


def test_a_model_whose_weights_cannot_be_moved_is_refused():
    peft = pytest.importorskip("peft")
    model, _ = tiny_vit()
    check_model(model)
    with pytest.raises(ValueError, match=r"weights in float16.*dtype=torch\.float32"):
        check_model(copy.deepcopy(model).half())
    with pytest.raises(ValueError, match=r"weights in float64.*model\.float\(\)"):
        check_model(TinyNet().double())
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(ValueError, match=r"PEFT adapters.*merge_and_unload"):
        check_model(adapted)
    spread = TinyNet()
    spread.hf_device_map = {"stem": 0, "blocks": 1}
    with pytest.raises(ValueError, match="spread over several devices"):
        check_model(spread)


def test_a_model_that_is_none_or_of_another_task_is_refused():
    wrapped = torch.optim.swa_utils.AveragedModel(TinyNet())
    several, _ = tiny_vit()
    several.config.problem_type = "multi_label_classification"
    for model, message in (
        ("me/model", r"expected, got str. Pass load_model\('me/model'\).model"),
        (wrapped, "AveragedModel is a wrapper around a model.*model.module"),
        (TinyNet().to("meta"), "no weights .device meta."),
        (several, "configured for multi_label_classification"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            check_model(model)
    with pytest.raises(ValueError, match="one class, so that there is nothing to tell apart"):
        checked(model=TinyNet(n_classes=1).eval(), primary=Images(4, n_classes=1))


def test_a_model_that_is_compiled_already_is_refused(tiny_net):
    with pytest.raises(ValueError, match=r"compiled or wrapped already.*torch_compile=True"):
        check_model(torch.compile(tiny_net, backend="eager"))
    tiny_net.compile(backend="eager")
    with pytest.raises(ValueError, match=r"compiled or wrapped already.*torch_compile=True"):
        check_model(tiny_net)


def test_weights_that_are_shared_with_what_trains_are_refused(tmp_path, tiny_net, primary, harmful):
    tiny_net.blocks[2].conv.weight = tiny_net.blocks[0].conv.weight
    with pytest.raises(ValueError, match=r"blocks\.2\.conv\.weight and blocks\.0\.conv\.weight are one"):
        trainer(tmp_path, tiny_net, primary, harmful)
    # Where neither of the two trains, nothing moves.
    trainer(tmp_path, tiny_net, primary, harmful, trainable=["score"], lambda_primary=0.0, lambda_harmful=0.0)


@pytest.mark.parametrize(
    ("changes", "sets", "message"),
    [
        ({"metric_for_best_model": "f1"}, "one", "an evaluation finds accuracy, loss, rir, rir_i, rir_ii"),
        ({"metric_for_best_model": "eval_rir"}, {"a": "one"}, "an evaluation finds a_accuracy"),
        ({"batch_eval_metrics": True}, "one", "compute_metrics that takes compute_result"),
    ],
)
def test_figures_that_no_evaluation_finds_are_said_at_once(tmp_path, changes, sets, message):
    args = arguments(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        check_evaluation(args, sets, False)
    check_evaluation(args, sets, True)
    check_evaluation(arguments(tmp_path, metric_for_best_model="eval_a_rir"), {"a": "one"}, False)


def test_logits_that_are_changed_before_metrics_need_metrics_of_ones_own(tmp_path):
    with pytest.raises(ValueError, match=r"preprocess_logits_for_metrics .* Give compute_metrics too"):
        check_evaluation(arguments(tmp_path), Images(4), False, changed_logits=True)
    check_evaluation(arguments(tmp_path), Images(4), True, changed_logits=True)


def test_timms_own_activation_checkpointing_is_called(tmp_path, tiny_net):
    model = tiny_timm()
    args = arguments(tmp_path, activation_checkpointing=True)
    checkpoint_activations_of_timm(model, args)
    assert model.grad_checkpointing
    # The Trainer would call what only transformers has.
    assert args.activation_checkpointing is False
    with pytest.raises(ValueError, match="takes no activation_checkpointing_kwargs"):
        checkpoint_activations_of_timm(
            model, arguments(tmp_path, activation_checkpointing=True, activation_checkpointing_kwargs={"offload": True})
        )
    with pytest.raises(ValueError, match="has no activation checkpointing"):
        checkpoint_activations_of_timm(tiny_net, arguments(tmp_path, activation_checkpointing=True))


def test_epochs_of_a_stream_are_refused(tmp_path):
    stream = picture_dataset(4).to_iterable_dataset()
    epochs = arguments(tmp_path, max_steps=-1, num_train_epochs=1)
    with pytest.raises(ValueError, match=r"num_train_epochs=1 is no number of steps. Set max_steps"):
        check_steps(epochs, (stream, None))
    check_steps(epochs, (Images(4), None))
    check_steps(arguments(tmp_path), (stream, None))


def test_a_parameter_without_a_gradient_is_named():
    model = TinyNet()
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    check_gradients(model)
    model.unused = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(ValueError, match=r"1 parameters .* have no gradient: unused"):
        check_gradients(model)


def test_weights_that_a_norm_of_the_old_kind_makes_are_refused(tiny_net):
    check_model(torch.nn.utils.parametrizations.weight_norm(tiny_net.widen) and tiny_net)
    for make in (torch.nn.utils.weight_norm, torch.nn.utils.spectral_norm):
        model = TinyNet()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            make(model.widen)
        with pytest.raises(ValueError, match=r"widen has a norm of its weight of the old kind"):
            check_model(model)
