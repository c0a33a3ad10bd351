"""What a run knows of itself, in the form of a record: one form for every way to start it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn
from transformers import TrainerState

from hf_immunize.data.collate import collate_images
from hf_immunize.data.fingerprint import rows_fingerprint
from hf_immunize.data.images import ImageInputs
from hf_immunize.data.streams import is_stream
from hf_immunize.data.task import ImageTask
from hf_immunize.models.loaded import LoadedModel
from hf_immunize.models.origin import commit_of_weights
from hf_immunize.models.pooled import PooledClassifier
from hf_immunize.models.trainable import TrainableSelection
from hf_immunize.release.record import DatasetRecord
from hf_immunize.training.arguments import ImmunizationArguments

__all__ = ["data_facts", "input_shape", "model_facts", "own_parts", "steps_made", "training_facts"]

#: β1, β2 and ε of `transformers`' arguments unless they are given.
ADAM = (0.9, 0.999, 1e-8)

#: Characters of a name.
_LONGEST_LICENCE = 100


def steps_made(args: ImmunizationArguments, state: TrainerState) -> dict[str, int | None]:
    """As :func:`training_facts` takes them: those made, those planned, and the one whose weights were kept."""
    best = state.best_global_step if args.load_best_model_at_end and state.best_model_checkpoint else None
    return {"steps": state.global_step, "planned": state.max_steps or None, "kept": best}


def training_facts(
    args: ImmunizationArguments,
    selection: TrainableSelection,
    *,
    steps: int,
    planned: int | None = None,
    kept: int | None = None,
    fit: Mapping[str, Any] | None = None,
    seconds: float | None = None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """The parts ``objective``, ``trainable``, ``training`` and ``seeds`` of a record.

    Args:
        args: of the run.
        selection: what trained.
        steps: optimizer steps that were made.
        planned: that the schedule of the rate was made for, where the run knows it.
        kept: the step whose weights are released, where that is not the last.
        fit: steps and rate of the fit that made θ0, where there was one.
        seconds: that the immunization alone took.
        notes: what was chosen for the user, in sentences.
    """
    objective = args.made_objective()
    optimizer = str(getattr(args.optim, "value", args.optim)) + (f" ({args.optim_args})" if args.optim_args else "")
    moments = {"beta1": args.adam_beta1, "beta2": args.adam_beta2, "eps": args.adam_epsilon}
    if "adam" in optimizer and tuple(moments.values()) != ADAM:
        optimizer += _listed(moments)
    scheduler = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    if args.lr_scheduler_kwargs:
        scheduler += (
            f" ({', '.join(f'{name}={value}' for name, value in dict(cast(Any, args.lr_scheduler_kwargs)).items())})"
        )
    training: dict[str, Any] = {
        "steps": steps,
        "primary_batch_size": args.per_device_train_batch_size * args.world_size,
        "harmful_batch_size": args.harmful_batch_size * args.world_size,
        "gradient_accumulation_steps": args.gradient_accumulation_steps,
        "learning_rate": args.learning_rate,
        "optimizer": optimizer,
        "weight_decay": args.weight_decay,
        "lr_scheduler": scheduler,
        "warmup_steps": args.get_warmup_steps(planned or steps),
        "max_grad_norm": args.max_grad_norm,
        "label_smoothing": args.label_smoothing_factor,
        "dtype": "bfloat16 autocast" if args.bf16 else "float16 autocast" if args.fp16 else "float32",
        "processes": args.world_size,
    }
    if planned not in (None, steps):
        training["planned_steps"] = planned
    if kept not in (None, steps):
        training["kept_step"] = kept
        by = f"the best by {args.metric_for_best_model}" if args.metric_for_best_model else "the best"
        notes = [*notes, f"The weights are those of step {kept}, {by}; a control has all {steps} steps."]
    if args.gradient_accumulation_steps > 1:
        training["regularizers"] = "of each micro-batch, averaged"
    if fit is not None:
        training["fit"] = dict(fit)
    if seconds is not None:
        training["seconds"] = round(seconds, 1)
    if notes:
        training["notes"] = list(notes)
    return {
        "objective": {
            "name": args.objective,
            "lambda_primary": objective.lambda_primary,
            "lambda_harmful": objective.lambda_harmful,
            **({} if "scale_free" in objective.without_effect else {"scale_free": objective.scale_free}),
            **({"arguments": args.objective_kwargs} if args.objective_kwargs else {}),
        },
        "trainable": {
            "selection": args.selection,
            "modules": list(selection.modules),
            "n_parameters": selection.n_parameters,
            "n_total": selection.n_total,
        },
        "training": training,
        # Measuring draws with seed 0, whatever these are.
        "seeds": {
            "training": args.seed,
            "order of the data": args.data_seed if args.data_seed is not None else args.seed,
        },
    }


def _listed(values: Mapping[str, Any]) -> str:
    return f" ({', '.join(f'{name}={value}' for name, value in values.items())})" if values else ""


def own_parts(
    optimizer: torch.optim.Optimizer | None, scheduler: Any, task_loss: Any, training: Mapping[str, Any]
) -> dict[str, Any]:
    """The part ``training`` of a record where a user's own optimizer, schedule or loss stands for the arguments'.

    Args:
        optimizer: as it was given, or None.
        scheduler: likewise.
        task_loss: likewise; what it smooths is its own.
        training: as the arguments have it.
    """
    found = dict(training)
    if optimizer is not None:
        # Of its groups, which a checkpoint may have set, rather than as it was made.
        first = optimizer.param_groups[0]
        acted = {
            name: first.get("initial_lr", first["lr"]) if name == "lr" else first[name] for name in optimizer.defaults
        }
        plain = {name: one for name, one in acted.items() if isinstance(one, (bool, int, float, tuple))}
        found["learning_rate"], found["weight_decay"] = plain.pop("lr", None), plain.pop("weight_decay", None)
        acting = {name: one for name, one in plain.items() if one}
        found["optimizer"] = f"{type(optimizer).__name__}{_listed(acting)}, given"
    if scheduler is not None:
        found["lr_scheduler"], found["warmup_steps"] = f"{type(scheduler).__name__}, given", None
    if task_loss is not None:
        found["label_smoothing"] = None
    return {name: one for name, one in found.items() if one is not None}


def model_facts(model: LoadedModel | nn.Module, weights: Mapping[str, torch.Tensor] | None = None) -> dict[str, Any]:
    """What a record says about θ0's origin: of a model loaded by name, or of a module as it is.

    Args:
        model: θ0, or what was trained from it.
        weights: θ0's, of a module; those that it holds unless given.
    """
    if isinstance(model, LoadedModel):
        return {
            "base_model": model.name,
            "base_model_revision": model.revision,
            "base_model_kind": model.kind,
            "library": model.library,
            "architecture": model.architecture,
            "license": model.license,
        }
    model = model.backbone if isinstance(model, PooledClassifier) else model
    config = getattr(model, "config", None)
    timm_config = getattr(model, "pretrained_cfg", None)
    name = (timm_config or {}).get("hf_hub_id") or getattr(config, "_name_or_path", None)
    # A name tells where a module is from; what was done to it since only its weights tell.
    commit = commit_of_weights(model, name, model.state_dict() if weights is None else weights) if name else None
    return {
        "base_model": name if commit else f"{type(model).__name__} passed as a module",
        "base_model_revision": commit,
        "base_model_kind": "hub" if name and commit else "local",
        "library": "timm" if timm_config is not None else "transformers",
        "architecture": (timm_config or {}).get("architecture") or type(model).__name__,
    }


def data_facts(task: ImageTask | tuple[Any, Any]) -> DatasetRecord:
    """What a record says about a data set: of a task loaded by name, or of a pair of data sets of model inputs."""
    if isinstance(task, ImageTask):
        streamed = is_stream(task.train)
        return DatasetRecord(
            name=task.name,
            revision=task.revision,
            config=task.config,
            split=task.split,
            eval_split=task.eval_split,
            fingerprint=None if streamed else rows_fingerprint(task.train, task.image_column, task.label_column),
            eval_fingerprint=rows_fingerprint(task.evaluation, task.image_column, task.label_column),
            n_train=None if streamed else len(task.train),
            n_eval=len(task.evaluation),
            classes=task.classes,
            license=_licence(task.train),
            source=task.source,
            arguments=dict(task.arguments),
        )
    train, evaluation = task
    rows = getattr(train, "data", None)
    info, split = getattr(rows, "info", None), getattr(rows, "split", None)
    return DatasetRecord(
        name=getattr(info, "dataset_name", None) or "data passed as an object",
        config=getattr(info, "config_name", None),
        split=None if split is None else str(split),
        fingerprint=_fingerprint(train),
        eval_fingerprint=_fingerprint(evaluation),
        license=_licence(rows),
        source="object",
        n_train=None if train is None or is_stream(train) else len(train),
        n_eval=len(evaluation),
    )


def input_shape(data: Any) -> list[int] | None:
    """Channels, height and width of what the model reads, from the first row of data of model inputs."""
    shape = collate_images([data[0]])["pixel_values"].shape[1:] if len(data) else ()
    return list(shape) if len(shape) == 3 else None


def _licence(rows: Any) -> str | None:
    """As the data set states it, where that is a name and not the text of a licence."""
    given = getattr(getattr(rows, "info", None), "license", None)
    named = " ".join(given.split()) if isinstance(given, str) else ""
    return named if 0 < len(named) <= _LONGEST_LICENCE else None


def _fingerprint(data: Any) -> str | None:
    """Of rows of pictures; what gives tensors has none that would mean the same elsewhere."""
    if not isinstance(data, ImageInputs) or not data.is_deterministic:
        return None
    return rows_fingerprint(data.data, data.image_column, data.label_column)
