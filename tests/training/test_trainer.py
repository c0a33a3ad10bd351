"""The Trainer: two streams, θ0, RIR in evaluate(), resume, non-finite losses, logs."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from tiny import Images, TinyNet
from torch import nn
from transformers import TrainerCallback, ViTConfig, ViTForImageClassification

from hf_immunize import (
    ImmunizationArguments,
    ImmunizationTrainer,
    NonFiniteLossError,
    evaluate_immunization,
    features_and_logits,
    features_r_ill,
    features_r_well,
)
from hf_immunize.metrics.evaluation import Protocol


def arguments(folder, **changes):
    values = {
        "output_dir": str(folder),
        "max_steps": 6,
        "warmup_steps": 0,
        "per_device_train_batch_size": 16,
        "learning_rate": 1e-2,
        "optim": "sgd",
        "lambda_harmful": 1.0,
        "use_cpu": True,
        "report_to": "none",
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "rir_group_size": 10,
        "rir_groups": 4,
        "dataloader_pin_memory": False,
    }
    return ImmunizationArguments(**(values | changes))


def trainer(folder, model, primary, harmful, **changes):
    return ImmunizationTrainer(
        model, arguments(folder, **changes), train_dataset=primary, harmful_dataset=harmful, eval_dataset=primary
    )


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


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


def test_parts_are_logged_and_add_up_to_the_loss(tmp_path, tiny_net, primary, harmful):
    run = trainer(tmp_path, tiny_net, primary, harmful, logging_steps=3)
    run.train()
    logged = [entry for entry in run.state.log_history if "loss" in entry]
    assert len(logged) == 2
    for entry in logged:
        assert {"task_loss", "r_well", "r_ill"} <= entry.keys()
        # The Trainer keeps its own sum in float32.
        assert entry["task_loss"] + entry["r_well"] + entry["r_ill"] == pytest.approx(entry["loss"], rel=1e-4)


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


def test_theta_zero_survives_a_resume_from_other_weights(tmp_path, tiny_net, primary, harmful):
    start = {name: value.clone() for name, value in tiny_net.named_parameters()}
    common = {"max_steps": 4, "save_strategy": "steps", "save_steps": 4}
    trainer(tmp_path, tiny_net, primary, harmful, **common).train()
    # The trained model itself is passed in: θ0 must come from the first run.
    again = trainer(tmp_path, tiny_net, primary, harmful, **(common | {"max_steps": 6}))
    again.train(resume_from_checkpoint=True)
    kept = again.initial_state_dict()
    assert all(torch.equal(kept[name], value) for name, value in start.items())


def test_evaluate_gives_accuracy_loss_and_rir_against_theta_zero(tmp_path, tiny_net, primary, harmful):
    base = copy.deepcopy(tiny_net)
    run = trainer(tmp_path, tiny_net, primary, harmful, max_steps=12, learning_rate=0.05)
    before = run.evaluate()
    assert before["eval_rir"] == pytest.approx(1.0)
    run.train()
    after = run.evaluate()
    tiny_net.eval()
    logits = tiny_net(primary.x)
    assert after["eval_accuracy"] == pytest.approx((logits.argmax(1) == primary.y).double().mean().item())
    assert after["eval_loss"] == pytest.approx(F.cross_entropy(logits, primary.y).item(), rel=1e-4)
    assert after["eval_rir_rank_initial_harmful"] == 10
    # The same protocol through the public function, on the rows in the trainer's order.
    order = [torch.randperm(len(data), generator=torch.Generator().manual_seed(0)) for data in (primary, harmful)]
    subsets = [
        torch.utils.data.Subset(data, rows.tolist()) for data, rows in zip((primary, harmful), order, strict=True)
    ]
    report = evaluate_immunization(tiny_net, base, *subsets, protocol=Protocol(groups=4, group_size=10), float64=False)
    assert after["eval_rir"] == pytest.approx(report.rir, rel=1e-3)
    assert after["eval_rir_i"] == pytest.approx(report.rir_i, rel=1e-3)
    assert abs(after["eval_rir"] - 1) > 1e-3


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


def tiny_vit():
    torch.manual_seed(0)
    return ViTForImageClassification(
        ViTConfig(
            image_size=8,
            patch_size=4,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            num_labels=3,
        )
    )


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


class Exploding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = TinyNet()
        self.fuse = 3

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.fuse -= 1
        return self.inner(pixel_values * (float("nan") if self.training and self.fuse < 0 else 1.0))


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path, primary, harmful):
    model = Exploding()
    run = trainer(
        tmp_path, model, primary, harmful, save_strategy="steps", save_steps=2, lambda_primary=0.25, lambda_harmful=0.5
    )
    with pytest.raises(NonFiniteLossError, match=r"Step 4: .*λ_primary = 0\.25, λ_harmful = 0\.5.*resume") as raised:
        run.train()
    assert "learning rate" in str(raised.value)
    assert (tmp_path / "checkpoint-2" / "model.safetensors").exists()
    assert not (tmp_path / "checkpoint-4").exists()


def test_bf16_training_stays_finite(tmp_path, tiny_net, primary, harmful):
    run = trainer(tmp_path, tiny_net, primary, harmful, bf16=True)
    run.train()
    assert all(value.isfinite().all() for value in tiny_net.state_dict().values())
    assert run.state.log_history[-1]["train_loss"] > 0


def test_imma_uses_harmful_labels(tmp_path, tiny_net, primary):
    labelled = Images(40, n_classes=4, seed=2)
    run = trainer(tmp_path, tiny_net, primary, labelled, objective="imma")
    run.train()
    with pytest.raises(ValueError, match="needs harmful labels"):
        trainer(tmp_path, tiny_net, primary, Images(40, labels=False), objective="imma")


def test_a_token_does_not_reach_the_disk(tmp_path, tiny_net, primary, harmful):
    run = trainer(tmp_path, tiny_net, primary, harmful, hub_token="hf_secretsecretsecret")
    run.save_model()
    assert run.args.hub_token == "hf_secretsecretsecret"
    assert b"secretsecret" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lambda_primary": -1.0}, "lambda_primary must be a finite number, zero or more, got -1.0"),
        ({"lambda_harmful": float("nan")}, "lambda_harmful must be a finite number"),
        ({"lambda_harmful": "5e-5"}, "YAML reads 5e-5 as a word"),
        ({"rir_group_size": 1}, "rir_group_size must be 2 or more, got 1"),
        ({"remove_unused_columns": True}, "Leave it false"),
        ({"objective": "conditon"}, "condition"),
    ],
)
def test_arguments_that_cannot_be(tmp_path, tiny_net, primary, harmful, changes, message):
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, tiny_net, primary, harmful, **changes)


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


class LabelledOutside(Images):
    def __init__(self) -> None:
        super().__init__(40)
        self.y = self.y + 2
        self.labels = self.y.tolist()
