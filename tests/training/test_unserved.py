"""Every field of `TrainingArguments`: honoured as it stands, or refused when the arguments are made."""

from __future__ import annotations

import dataclasses
import json

import pytest
from trainers import arguments
from transformers import TrainingArguments

from hf_immunize.errors import InputError
from hf_immunize.training.unserved import ACCELERATE_FIELDS, UNSERVED

#: Field → a value that is not served.
REFUSED = {
    "auto_find_batch_size": True,
    "bf16_full_eval": True,
    "fp16_full_eval": True,
    "dataloader_drop_last": True,
    "deepspeed": {"zero_optimization": {"stage": 2}},
    "fsdp": "full_shard",
    "parallelism_config": object(),
    "include_num_input_tokens_seen": "all",
    "label_names": ["target"],
    "neftune_noise_alpha": 5.0,
    "remove_unused_columns": True,
    "train_sampling_strategy": "group_by_length",
    "use_liger_kernel": True,
}
#: Fields that this package defines anew or reads itself.
OWN = """per_device_train_batch_size per_device_eval_batch_size num_train_epochs max_steps learning_rate warmup_steps
logging_steps optim optim_args gradient_accumulation_steps resume_from_checkpoint hub_token seed data_seed
label_smoothing_factor hub_model_id hub_private_repo hub_revision metric_for_best_model greater_is_better
disable_tqdm include_for_metrics batch_eval_metrics report_to accelerator_config activation_checkpointing
activation_checkpointing_kwargs gradient_checkpointing gradient_checkpointing_kwargs dataloader_num_workers
dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor dataloader_multiprocessing_context
dataloader_in_order torch_compile output_dir push_to_hub hub_strategy hub_always_push"""
#: Fields that act through methods of the Trainer that are left as they are, or have nothing to act on here.
THE_TRAINERS = """adam_beta1 adam_beta2 adam_epsilon optim_target_modules weight_decay lr_scheduler_type
lr_scheduler_kwargs max_grad_norm average_tokens_across_devices bf16 fp16 tf32 torch_compile_backend torch_compile_mode
liger_kernel_config use_cache torch_empty_cache_steps logging_strategy logging_first_step log_on_each_node
logging_nan_inf_filter log_level log_level_replica run_name project trackio_space_id trackio_bucket_id
trackio_static_space_id eval_strategy eval_steps eval_delay prediction_loss_only eval_on_start eval_do_concat_batches
eval_use_gather_object eval_accumulation_steps save_only_model save_strategy save_steps save_on_each_node
save_total_limit enable_jit_checkpoint load_best_model_at_end ignore_data_skip restore_callback_states_from_checkpoint
full_determinism use_cpu length_column_name ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers
ddp_static_graph ddp_backend ddp_timeout fsdp_config debug skip_memory_metrics do_train do_eval do_predict local_rank"""


def test_no_field_is_forgotten():
    # A field that a later transformers brings has to be looked at: add it where it belongs.
    known = [*REFUSED, *OWN.split(), *THE_TRAINERS.split()]
    assert sorted(known) == sorted({one.name for one in dataclasses.fields(TrainingArguments)})
    assert set(UNSERVED) == set(REFUSED)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_served_is_refused_when_the_arguments_are_made(tmp_path, name):
    with pytest.raises(InputError, match=f"{name}=.* is not supported.*Leave it at"):
        arguments(tmp_path, **{name: REFUSED[name]})


@pytest.mark.parametrize("form", [dict, json.dumps, "file"])
@pytest.mark.parametrize(
    ("name", "value"), [("dispatch_batches", True), ("even_batches", False), ("split_batches", True)]
)
def test_what_accelerate_cannot_do_here_is_refused_in_any_form(tmp_path, name, value, form):
    assert name in ACCELERATE_FIELDS
    given = {name: value}
    if form == "file":
        (tmp_path / "accelerate.json").write_text(json.dumps(given))
        given = str(tmp_path / "accelerate.json")
    else:
        given = form(given)
    with pytest.raises(InputError, match=f"accelerator_config: {name}={value} is not supported"):
        arguments(tmp_path, accelerator_config=given)


@pytest.mark.parametrize("optim", ["lomo", "galore_adamw_layerwise", "schedule_free_adamw"])
def test_optimizers_that_work_otherwise_are_refused(tmp_path, optim):
    with pytest.raises(InputError, match=f"optim='{optim}' is not supported"):
        arguments(tmp_path, optim=optim, optim_args=None)


@pytest.mark.parametrize("launched", ["FSDP", "DEEPSPEED"])
def test_what_accelerate_launch_asked_for_counts_too(tmp_path, monkeypatch, launched):
    monkeypatch.setenv(f"ACCELERATE_USE_{launched}", "true")
    with pytest.raises(InputError, match=f"{launched} was asked for by accelerate launch"):
        arguments(tmp_path)


def test_what_has_no_effect_here_is_taken(tmp_path):
    args = arguments(
        tmp_path,
        label_names=["labels"],
        accelerator_config={"use_seedable_sampler": False},
        average_tokens_across_devices=False,
        full_determinism=False,
    )
    assert args.as_control().accelerator_config.use_seedable_sampler is False


@pytest.mark.parametrize(
    ("optim", "given", "unread"),
    [
        ("adamw_torch_fused", "nonsense=1", "nonsense"),
        ("adamw_torch_fused", "eps=0.1", "eps"),
        ("sgd", "momentumm=0.9, nesterov=true", "momentumm"),
    ],
)
def test_arguments_that_an_optimizer_does_not_read_are_refused(tmp_path, optim, given, unread):
    with pytest.raises(InputError, match=f"{optim}' reads nothing called {unread} in optim_args"):
        arguments(tmp_path, optim=optim, optim_args=given)


def test_arguments_that_an_optimizer_reads_are_left_to_it(tmp_path):
    assert arguments(tmp_path, optim="sgd", optim_args="momentum=0.5,nesterov=true").optim_args
    assert arguments(tmp_path, optim="rmsprop", optim_args="alpha=0.9, eps=1e-6").optim_args
    with pytest.raises(InputError, match="must be name=value"):
        arguments(tmp_path, optim="sgd", optim_args="momentum")
    with pytest.raises(InputError, match=r"'sgd' does not take optim_args='momentum=-1': .*momentum"):
        arguments(tmp_path, optim="sgd", optim_args="momentum=-1")
    with pytest.raises(InputError, match="does not take optim_args='nesterov=true'"):
        arguments(tmp_path, optim="sgd", optim_args="nesterov=true")
