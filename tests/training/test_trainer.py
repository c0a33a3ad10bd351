"""The Trainer: two streams, the loss and its parts, logs."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from samples import tiny_timm
from tiny import Images, TinyNet
from torch import nn
from trainers import arguments, state, tiny_vit, trainer
from transformers import TrainerCallback

from hf_immunize import ImmunizationTrainer, features_and_logits, features_r_ill, features_r_well


def test_loss_is_cross_entropy_plus_the_weighted_parts(tmp_path, tiny_net, primary, harmful):
    run = trainer(tmp_path, tiny_net, primary, harmful, lambda_primary=0.7, lambda_harmful=0.3)
    images, labels = primary.x[:16], primary.y[:16]
    tiny_net.eval()
    loss = run.compute_loss(
        tiny_net, {"primary": {"pixel_values": images, "labels": labels}, "harmful": {"pixel_values": harmful.x[:12]}}
    )
    features, logits = features_and_logits(tiny_net, images)
    other, _ = features_and_logits(tiny_net, harmful.x[:12])
    expected = F.cross_entropy(logits, labels) + 0.7 * features_r_well(features) + 0.3 * features_r_ill(other)
    torch.testing.assert_close(loss, expected)


def test_only_the_last_stage_trains_and_statistics_stay_still(tmp_path, primary, harmful):
    model = TinyNet(dropout=0.3)
    before = state(model)
    trainer(tmp_path, model, primary, harmful).train()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"blocks.2.conv.weight", "blocks.2.norm.weight", "blocks.2.norm.bias"} | {
        "widen.weight",
        "widen.bias",
        "score.weight",
        "score.bias",
    }


def test_lambda_zero_is_plain_fine_tuning_on_the_same_batches(tmp_path, primary, harmful):
    torch.manual_seed(0)
    ours, plain = TinyNet(), TinyNet()
    plain.load_state_dict(ours.state_dict())
    seen = []

    class Watch(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            seen.append(state.global_step)

    run = trainer(tmp_path, ours, primary, harmful, lambda_primary=0.0, lambda_harmful=0.0, max_grad_norm=0.0)
    batches = [batch["primary"] for batch in run.get_train_dataloader()]
    run.add_callback(Watch())
    run.train()
    assert len(seen) == 6

    for parameter in plain.parameters():
        parameter.requires_grad_(False)
    chosen = [*plain.blocks[2].parameters(), *plain.widen.parameters(), *plain.score.parameters()]
    for parameter in chosen:
        parameter.requires_grad_(True)
    plain.eval()
    optimizer = torch.optim.SGD(chosen, lr=1e-2, momentum=0.9, nesterov=True)
    for step in range(6):
        optimizer.param_groups[0]["lr"] = 1e-2 * (6 - step) / 6
        optimizer.zero_grad()
        F.cross_entropy(plain(batches[step]["pixel_values"]), batches[step]["labels"]).backward()
        optimizer.step()
    for (name, a), b in zip(ours.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_gradient_accumulation_is_the_mean_over_micro_batches(tmp_path, primary, harmful):
    torch.manual_seed(0)
    model = TinyNet()
    reference = copy.deepcopy(model)
    run = trainer(
        tmp_path,
        model,
        primary,
        harmful,
        gradient_accumulation_steps=3,
        max_steps=1,
        max_grad_norm=0.0,
        optim_args="momentum=0.0",
    )
    batches = list(run.get_train_dataloader())[:3]
    run.train()
    for parameter in reference.parameters():
        parameter.grad = None
    reference.eval()
    total = 0.0
    for batch in batches:
        joined = torch.cat([batch["primary"]["pixel_values"], batch["harmful"]["pixel_values"]])
        features, logits = features_and_logits(reference, joined)
        task = F.cross_entropy(logits[:16], batch["primary"]["labels"])
        total = total + (task + features_r_well(features[:16]) + features_r_ill(features[16:])) / 3
    total.backward()
    for name in ("blocks.2.conv.weight", "score.weight"):
        expected = reference.get_parameter(name) - 1e-2 * reference.get_parameter(name).grad
        torch.testing.assert_close(model.get_parameter(name), expected, rtol=1e-4, atol=1e-6)


def test_label_smoothing_reaches_the_task_loss_of_a_plain_module(tmp_path, tiny_net, primary, harmful):
    run = trainer(tmp_path, tiny_net, primary, harmful, label_smoothing_factor=0.2)
    images, labels = primary.x[:16], primary.y[:16]
    tiny_net.eval()
    expected = F.cross_entropy(tiny_net(images), labels, label_smoothing=0.2)
    loss = run.compute_loss(tiny_net, {"primary": {"pixel_values": images, "labels": labels}})
    torch.testing.assert_close(loss, expected)
    assert run.args.label_smoothing_factor == 0.2


def test_options_of_the_loader_reach_it(tmp_path, tiny_net, primary, harmful):
    options = {
        "dataloader_num_workers": 1,
        "dataloader_multiprocessing_context": "spawn",
        "dataloader_in_order": False,
        "dataloader_prefetch_factor": 3,
        "cache_frozen": "off",
    }
    loader = trainer(tmp_path, tiny_net, primary, harmful, **options).get_train_dataloader()
    assert loader.multiprocessing_context.get_start_method() == "spawn"
    assert loader.prefetch_factor == 3
    assert loader.in_order is False
    # Else NumPy draws alike in all workers.
    assert loader.worker_init_fn is not None


def test_torch_compile_trains_the_same_weights(tmp_path, tiny_net, primary, harmful):
    plain, compiled = tiny_net, copy.deepcopy(tiny_net)
    trainer(tmp_path, plain, primary, harmful, max_steps=2).train()
    run = trainer(tmp_path, compiled, primary, harmful, max_steps=2, torch_compile=True, torch_compile_backend="eager")
    run.train()
    for name, value in run.model.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name], msg=name)
    assert run.evaluate()["eval_rir"] > 0


@pytest.mark.parametrize("build", [tiny_vit, tiny_timm], ids=["transformers", "timm"])
@pytest.mark.parametrize(
    ("changes", "within"),
    [({"activation_checkpointing": True}, 1e-5), ({"bf16": True}, 0.25)],
    ids=["recomputed", "bf16"],
)
def test_what_saves_memory_or_time_trains_the_same(tmp_path, build, changes, within):
    """Within a share of the way that the weights went."""
    start, found = build(), []
    for more in ({}, changes):
        model = copy.deepcopy(start)
        size = 8 if build is tiny_vit else 32
        data = [Sized(32, size, seed) for seed in (1, 2)]
        trainer(tmp_path, model, *data, max_steps=4, learning_rate=1e-3, cache_frozen="off", **more).train()
        trained = [name for name, one in model.named_parameters() if one.requires_grad]
        moved = [(model.state_dict()[name] - start.state_dict()[name]).flatten() for name in trained]
        found.append(torch.cat(moved))
    away = (found[1] - found[0]).norm() / found[0].norm()
    assert found[0].norm() > 0
    assert away < within, float(away)


def test_one_of_several_gpus_is_used_and_that_is_said(tmp_path, tiny_net, primary, harmful, caplog):
    args = arguments(tmp_path)
    args._n_gpu = 4
    with caplog.at_level("WARNING"):
        run = ImmunizationTrainer(tiny_net, args, train_dataset=primary, harmful_dataset=harmful)
    assert "One of the 4 GPUs is used" in caplog.text
    assert run.args.train_batch_size == 16
    run.train()


def test_imma_uses_harmful_labels(tmp_path, tiny_net, primary):
    labelled = Images(40, n_classes=4, seed=2)
    run = trainer(tmp_path, tiny_net, primary, labelled, objective="imma")
    run.train()
    with pytest.raises(ValueError, match="needs harmful labels"):
        trainer(tmp_path, tiny_net, primary, Images(40, labels=False), objective="imma")


def test_data_that_cannot_be(tmp_path, tiny_net, primary, harmful):
    with pytest.raises(ValueError, match="harmful_dataset is missing"):
        trainer(tmp_path, tiny_net, primary, None)
    with pytest.raises(ValueError, match="labels run from"):
        trainer(tmp_path, tiny_net, LabelledOutside(), harmful)
    with pytest.raises(ValueError, match="have no labels"):
        trainer(tmp_path, tiny_net, Images(40, labels=False), harmful)
    with pytest.raises(ValueError, match="one shape"):
        trainer(tmp_path, tiny_net, primary, Images(40, channels=1))
    with pytest.raises(ValueError, match="data set is empty"):
        trainer(tmp_path, tiny_net, primary, Images(0))
    with pytest.raises(TypeError, match="must be an ImmunizationArguments"):
        ImmunizationTrainer(tiny_net, None, train_dataset=primary, harmful_dataset=harmful)
    with pytest.raises(ValueError, match="cannot be found"):
        trainer(tmp_path, nn.Sequential(TinyNet(), nn.Softmax(dim=1)), primary, harmful)
    few = trainer(tmp_path, tiny_net, Images(4), harmful)
    with pytest.raises(ValueError, match="Lower per_device_train_batch_size"):
        few.train()


class Sized(Images):
    """Images of another size."""

    def __init__(self, n: int, size: int, seed: int) -> None:
        super().__init__(n, seed=seed)
        self.x = self.x.repeat_interleave(size // 8, 2).repeat_interleave(size // 8, 3)


class LabelledOutside(Images):
    def __init__(self) -> None:
        super().__init__(40)
        self.y = self.y + 2
        self.labels = self.y.tolist()


def test_one_data_set_as_both_tasks_is_said(tmp_path, tiny_net, primary, harmful, caplog):
    with caplog.at_level("WARNING"):
        run = trainer(tmp_path, tiny_net, primary, primary)
    assert "96 of 96 pictures to make slow are among those to keep, row 0 first" in caplog.text
    assert any("kept and made slow at once" in note for note in run.notes)
    assert not any("made slow" in note for note in trainer(tmp_path, tiny_net, primary, harmful).notes)
