"""What is checked of model and data before a run: that they are there, fit together, and have the labels they need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hf_immunize.data.class_order import labels_of
from hf_immunize.data.collate import collate_images
from hf_immunize.data.labels import check_labels
from hf_immunize.data.overlap import overlap
from hf_immunize.data.streams import first_samples, is_stream
from hf_immunize.errors import InputError, UserError
from hf_immunize.models.forward import unwrap
from hf_immunize.models.head import find_head
from hf_immunize.objectives.objective import ModelObjective, Objective
from hf_immunize.training.arguments import ImmunizationArguments
from hf_immunize.training.pairing import check_source

__all__ = [
    "check_evaluation",
    "check_gradients",
    "check_model",
    "check_objective",
    "check_steps",
    "checkpoint_activations_of_timm",
    "first_batches",
    "shared_pictures",
]

#: What an evaluation finds where the user gave no metrics.
METRICS = ("accuracy", "loss", "rir", "rir_i", "rir_ii")


def check_objective(objective: Objective, args: ImmunizationArguments) -> None:
    """Refuses an objective that several processes would compute otherwise than one, or that no budget can hold.

    Raises:
        InputError: more than one process, or ``max_accuracy_drop``.
    """
    if args.max_accuracy_drop is not None and isinstance(objective, ModelObjective) and not objective.tells_strength:
        raise InputError(
            f"max_accuracy_drop keeps the state of a run that is protected most, which the parts of {objective.name!r} "
            "do not tell of two states alike. Leave it away."
        )
    if args.world_size > 1 and isinstance(objective, ModelObjective) and not objective.exact_over_processes:
        raise InputError(
            f"The objective {objective.name!r} adapts the weights to one batch, and {args.world_size} processes would "
            "each adapt to a part of it. Run it in one process."
        )


def check_model(model: nn.Module) -> None:
    """Refuses a model that training would change otherwise than it seems, or whose weights it cannot move.

    Raises:
        InputTypeError: no module.
        InputError: adapters of PEFT, another precision, quantized weights, weights that are not there (meta) or spread
            over devices, a model that is compiled or wrapped already, or one for several classes an image.
    """
    inner = unwrap(model)
    kind = type(inner).__name__
    if inner is not model or getattr(model, "_compiled_call_impl", None) is not None:
        raise InputError(
            f"{kind} is compiled or wrapped already, and its checkpoints would name every weight otherwise. Pass the "
            "model itself, and set torch_compile=True (or start several processes with torchrun)."
        )
    if hasattr(model, "peft_config") or hasattr(model, "base_model_torch_dtype"):
        raise InputError(
            f"{kind} holds PEFT adapters on a frozen base, and an immunization changes the weights that are released. "
            "Merge them first: model = model.merge_and_unload()."
        )
    if [name for name, _ in model.named_children()] == ["module"] and not model._parameters:
        raise InputError(
            f"{kind} is a wrapper around a model, and its checkpoints would name every weight otherwise. Pass that: "
            "model.module."
        )
    if any(one.is_meta for one in model.parameters()):
        raise InputError(
            f"{kind} has no weights (device meta). Load them: from_pretrained(…), without the meta device."
        )
    for name, module in model.named_modules():
        old = [type(hook).__name__ for hook in module._forward_pre_hooks.values()]
        if {"WeightNorm", "SpectralNorm"} & set(old):
            raise InputError(
                f"{name} has a norm of its weight of the old kind, with which no model can be copied after a step. Use "
                "torch.nn.utils.parametrizations.weight_norm (or spectral_norm), or fold it (remove_weight_norm)."
            )
    problem = getattr(getattr(model, "config", None), "problem_type", None)
    if problem in ("multi_label_classification", "regression"):
        raise InputError(
            f"{kind} is configured for {problem}, and one class an image is kept here, by cross-entropy. If that is "
            "your task: model.config.problem_type = None."
        )
    if getattr(model, "is_quantized", False) or getattr(model, "hf_quantizer", None) is not None:
        raise InputError(f"{kind} is quantized, and such weights cannot be trained. Load it without quantization.")
    if len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1:
        raise InputError(f"{kind} is spread over several devices (device_map). Load it without device_map.")
    others = {str(one.dtype) for one in model.parameters() if one.is_floating_point() and one.dtype != torch.float32}
    if others:
        raise InputError(
            f"{kind} holds weights in {', '.join(sorted(others)).replace('torch.', '')}. Training is in float32: in 16 "
            "bits small steps vanish. Load it with dtype=torch.float32 (or call model.float()), and set bf16=True for "
            "mixed precision."
        )


def check_steps(args: ImmunizationArguments, sources: Sequence[Any]) -> None:
    """Raises InputError where epochs were asked for of a stream, which has no end that is known."""
    if args.max_steps < 1 and any(map(is_stream, sources)):
        raise InputError(
            f"A stream does not say when an epoch ends, so num_train_epochs={args.num_train_epochs} is no number of "
            "steps. Set max_steps."
        )


def check_evaluation(
    args: ImmunizationArguments, eval_dataset: Any, own_metrics: bool, changed_logits: bool = False
) -> None:
    """Refuses arguments that ask for a figure that no evaluation will find.

    Args:
        args: of the run.
        eval_dataset: what is evaluated on: one data set, several by name, or None.
        own_metrics: whether the user gave ``compute_metrics``, which may find anything.
        changed_logits: whether the user gave ``preprocess_logits_for_metrics``.

    Raises:
        InputError: ``batch_eval_metrics`` or changed logits without the user's own metrics, or a
            ``metric_for_best_model`` of no name.
    """
    if own_metrics:
        return
    if changed_logits:
        raise InputError(
            "preprocess_logits_for_metrics changes what metrics read, and the accuracy here reads logits. Give "
            "compute_metrics too."
        )
    if eval_dataset is None:
        return
    if args.batch_eval_metrics:
        raise InputError("batch_eval_metrics=True needs compute_metrics that takes compute_result. Leave it false.")
    sets = eval_dataset if isinstance(eval_dataset, dict) else {"": None}
    known = [f"{own}_{name}".lstrip("_") for own in sets for name in METRICS]
    wanted = args.metric_for_best_model
    if wanted is not None and wanted.removeprefix("eval_") not in known:
        raise InputError(f"metric_for_best_model={wanted!r}, but an evaluation finds {', '.join(known)}.")


def checkpoint_activations_of_timm(model: Any, args: ImmunizationArguments) -> None:
    """Makes timm's own call for what transformers calls activation checkpointing, and takes it out of the arguments.

    Raises:
        InputError: a model that has none, or options that timm's does not take.
    """
    if not args.activation_checkpointing or hasattr(model, "gradient_checkpointing_enable"):
        return
    if not hasattr(model, "set_grad_checkpointing"):
        raise InputError(f"{type(model).__name__} has no activation checkpointing. Leave it off.")
    if args.activation_checkpointing_kwargs:
        raise InputError("timm's activation checkpointing takes no activation_checkpointing_kwargs. Leave them away.")
    model.set_grad_checkpointing(True)
    args.activation_checkpointing = args.gradient_checkpointing = False


def check_gradients(model: nn.Module) -> None:
    """After the first backward pass: every parameter that was chosen to train has a gradient.

    Raises:
        InputError: some have none, with their names.
    """
    without = [name for name, one in model.named_parameters() if one.requires_grad and one.grad is None]
    if without:
        shown = ", ".join(without[:5]) + (", …" if len(without) > 5 else "")
        raise InputError(
            f"{len(without)} parameters that were chosen to train have no gradient: {shown}. Either the model does not "
            "use them (leave them out: trainable=[…]), or activation checkpointing loses them (set "
            "activation_checkpointing_kwargs={'use_reentrant': False}, or leave checkpointing off)."
        )


def first_batches(
    model: nn.Module,
    sources: Mapping[str, Any],
    collate: Callable[[list[Any]], Any],
    device: torch.device,
    harmful_labels_needed: bool,
) -> dict[str, Any]:
    """Checks the first two samples of each data set and all labels that can be read without an image.

    Args:
        model: the classifier, on ``device``.
        sources: ``primary``, ``harmful``, ``primary evaluation``, ``harmful evaluation`` → a data set of model inputs,
            None, or a mapping of several for an evaluation.
        collate: from samples to a batch.
        device: where the batch goes.
        harmful_labels_needed: whether the objective reads the labels of the harmful batch.

    Returns:
        a batch on the device, to probe the model with.

    Raises:
        InputError: empty or unlabelled data, labels outside the head, images of different shapes, no data at all.
    """
    checked: dict[str, dict[str, Any]] = {}
    flat = _flat(sources)
    for name, data in flat.items():
        check_source(data, name)
        checked[name] = _collated(first_samples(data, 2), collate, name)
    if not checked:
        raise InputError("Pass train_dataset and harmful_dataset, or eval_dataset: there are no images to work on.")
    channels = {name: tuple(batch["pixel_values"].shape[1:]) for name, batch in checked.items()}
    if len(set(channels.values())) > 1:
        told = ", ".join(f"{name} {shape}" for name, shape in channels.items())
        raise InputError(
            f"All images must have one shape (C, H, W), got {told}. Use one image processor for both, and convert "
            "greyscale images with image.convert('RGB')."
        )
    sample = next(iter(checked.values()))
    on_device = {key: value.to(device) for key, value in sample.items() if isinstance(value, torch.Tensor)}
    n_classes = find_head(model, on_device).n_classes
    if n_classes < 2:
        raise InputError(
            "The model's head has one class, so that there is nothing to tell apart. Load it for two or more."
        )
    for name, batch in checked.items():
        if not name.startswith("primary"):
            continue
        if "labels" not in batch:
            raise InputError(f"The {name} data have no labels. Name the column of labels, or add one.")
        known, few = labels_of(flat[name]), batch["labels"]
        # A user's own collator may number them otherwise.
        if collate is not collate_images and known is not None and few.ndim == 1:
            known = known if [int(one) for one in known[: len(few)]] == few.tolist() else None
        check_labels(few if known is None else known, n_classes, name)
    if harmful_labels_needed and "harmful" in checked and "labels" not in checked["harmful"]:
        raise InputError("This objective needs harmful labels, and the harmful data have none.")
    return on_device


def shared_pictures(sources: Mapping[str, Any]) -> list[str]:
    """Sentences about pictures that are both trained on and measured on, or of both tasks.

    Args:
        sources: as of :func:`first_batches`.
    """
    told = []
    for name, data in _flat(sources).items():
        task = "harmful" if name.startswith("harmful") else "primary"
        found = None if name == task else overlap(data, sources.get(task))
        if found is not None:
            told.append(f"{name}: {found.told('to measure on', 'to train on')}: figures on them flatter")
    both = overlap(sources.get("harmful"), sources.get("primary"))
    if both is not None:
        told.append(f"{both.told('to make slow', 'to keep')}: these are kept and made slow at once")
    return told


def _flat(sources: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"{name} {own}".strip(): one
        for name, data in sources.items()
        for own, one in (data.items() if isinstance(data, dict) else (("", data),))
        if one is not None
    }


def _collated(samples: list[Any], collate: Callable[[list[Any]], Any], name: str) -> dict[str, Any]:
    """A batch of a data set's first samples; what a user's own collator raises is said with what it was given."""
    try:
        batch = collate(samples)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, UserError):
            raise
        held = ", ".join(samples[0]) if isinstance(samples[0], Mapping) else type(samples[0]).__name__
        raise InputError(
            f"data_collator makes no batch of the {name} data ({type(error).__name__}: {error}): their samples hold "
            f"{held}. Raw pictures that processing_class prepares come as 'pixel_values' and 'labels'."
        ) from error
    images = batch.get("pixel_values") if isinstance(batch, Mapping) else None
    if not isinstance(images, torch.Tensor):
        made = ", ".join(map(str, batch)) if isinstance(batch, Mapping) else type(batch).__name__
        raise InputError(
            f"data_collator must give a mapping with 'pixel_values', a tensor (and 'labels'); of the {name} data it "
            f"gave {made}."
        )
    return dict(batch)
