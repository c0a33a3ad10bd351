"""From a finished trainer to the results and the record of a release."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from torch import nn

from hf_immunize.attacks.suite import CARD_BUDGETS, run_attacks
from hf_immunize.errors import InputError
from hf_immunize.metrics.evaluation import Protocol, RIRReport, evaluate_immunization
from hf_immunize.models.forward import unwrap
from hf_immunize.release.record import DatasetRecord, ImmunizationRecord, spectra_results

if TYPE_CHECKING:
    from hf_immunize.training.trainer import ImmunizationTrainer

__all__ = ["measure_release", "record_of", "spectra_of", "training_facts"]


def measure_release(
    model: nn.Module,
    base: nn.Module,
    control: nn.Module | None,
    primary: Any,
    harmful_train: Any,
    harmful: Any,
    *,
    benign: tuple[Any, Any] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Results in the form of a record: accuracy, RIR in both protocols, spectra, and attackers where there are labels.

    Args:
        model: the immunized model.
        base: θ0.
        control: the same training with λ = 0, or None.
        primary: primary evaluation data, model inputs.
        harmful_train: harmful data for attackers to fit on.
        harmful: harmful evaluation data.
        benign: data of a task that training never saw, to fit on and to judge by.
        seed: of the groups.
        progress: show progress bars.
    """
    models = {"immunized": model} | ({} if control is None else {"control": control})
    reports = {
        name: evaluate_immunization(one, base, primary, harmful, protocol=Protocol(seed=seed), progress=progress)
        for name, one in models.items()
    }
    results: dict[str, Any] = {
        "rir": {name: report.to_dict() for name, report in reports.items()},
        "spectra": spectra_of(reports["immunized"]),
    }
    accuracy = {name: report.primary_accuracy.get("immunized") for name, report in reports.items()}
    accuracy["initial"] = reports["immunized"].primary_accuracy.get("initial")
    results["primary_accuracy"] = {name: value for name, value in accuracy.items() if value is not None}
    if _labelled(harmful_train) and _labelled(harmful):
        fit_on, judge_by = benign or (None, None)
        report = run_attacks(
            model,
            base,
            harmful_train,
            harmful,
            control=control,
            benign_train=fit_on,
            benign_test=judge_by,
            budgets=CARD_BUDGETS,
            progress=progress,
        )
        results["attacks"] = report.to_dict()
    return results


def spectra_of(report: RIRReport) -> dict[str, Any]:
    """The four spectra of all samples, as a record keeps them."""
    whole = report.all_samples
    assert whole is not None
    return spectra_results(
        initial_harmful=whole.initial_harmful,
        immunized_harmful=whole.immunized_harmful,
        initial_primary=whole.initial_primary,
        immunized_primary=whole.immunized_primary,
    )


def training_facts(trainer: ImmunizationTrainer) -> dict[str, Any]:
    """The parts ``objective``, ``trainable``, ``training`` and ``seeds`` of a record."""
    arguments = trainer.args
    return {
        "objective": {
            "name": arguments.objective,
            "lambda_primary": arguments.lambda_primary,
            "lambda_harmful": arguments.lambda_harmful,
            "scale_free": arguments.scale_free,
        },
        "trainable": {
            "selection": arguments.trainable,
            "modules": list(trainer.selection.modules),
            "n_parameters": trainer.selection.n_parameters,
            "n_total": trainer.selection.n_total,
        },
        "training": {
            "steps": trainer.state.global_step,
            "primary_batch_size": arguments.per_device_train_batch_size * arguments.world_size,
            "harmful_batch_size": arguments.harmful_batch_size * arguments.world_size,
            "gradient_accumulation_steps": arguments.gradient_accumulation_steps,
            "learning_rate": arguments.learning_rate,
            "optimizer": str(getattr(arguments.optim, "value", arguments.optim))
            + (f" ({arguments.optim_args})" if arguments.optim_args else ""),
            "lr_scheduler": str(getattr(arguments.lr_scheduler_type, "value", arguments.lr_scheduler_type)),
            "warmup_steps": arguments.warmup_steps,
            "max_grad_norm": arguments.max_grad_norm,
            "label_smoothing": arguments.label_smoothing_factor,
            "dtype": "bfloat16 autocast" if arguments.bf16 else "float16 autocast" if arguments.fp16 else "float32",
            "processes": arguments.world_size,
        },
        "seeds": {"data": arguments.data_seed if arguments.data_seed is not None else arguments.seed},
    }


def record_of(trainer: ImmunizationTrainer, **known: Any) -> ImmunizationRecord:
    """Measures a trained model beside its θ0, and writes down what the trainer knows about the run.

    Args:
        trainer: after ``train()``, with ``eval_dataset`` and harmful data.
        known: fields of :class:`ImmunizationRecord` that the trainer cannot know (``base_model_revision``, ``command``,
            data sets, licence); they go over what it found out.

    Raises:
        ValueError: no evaluation data.
    """
    harmful = trainer.harmful_eval_dataset if trainer.harmful_eval_dataset is not None else trainer.harmful_dataset
    if trainer.eval_dataset is None or harmful is None:
        raise InputError("A card reports what was measured: the trainer needs eval_dataset and harmful data.")
    model = unwrap(trainer.model)
    base = copy.deepcopy(model)
    base.load_state_dict(trainer.initial_state_dict())
    results = measure_release(
        model,
        base,
        None,
        trainer.eval_dataset,
        trainer.harmful_dataset,
        harmful,
        seed=trainer.args.seed,
        progress=False,
    )
    config = getattr(model, "config", None)
    is_timm = hasattr(model, "pretrained_cfg")
    name = getattr(config, "_name_or_path", None) or (model.pretrained_cfg.get("hf_hub_id") if is_timm else None)
    values: dict[str, Any] = {
        "base_model": name or f"{type(model).__name__} as passed to the trainer",
        "base_model_revision": getattr(config, "_commit_hash", None),
        "base_model_kind": "hub" if name and getattr(config, "_commit_hash", None) else "local",
        "library": "timm" if is_timm else "transformers",
        "architecture": model.pretrained_cfg.get("architecture") if is_timm else type(model).__name__,
        "primary": _described(trainer.train_dataset, trainer.eval_dataset),
        "harmful": _described(trainer.harmful_dataset, harmful),
        "results": results,
    }
    return ImmunizationRecord(**(values | training_facts(trainer) | known))


def _labelled(data: Any) -> bool:
    return data is not None and len(data) > 0 and "labels" in data[0]


def _described(train: Any, evaluation: Any) -> DatasetRecord:
    rows = getattr(train, "data", None)
    info = getattr(rows, "info", None)
    split = getattr(rows, "split", None)
    return DatasetRecord(
        name=getattr(info, "dataset_name", None) or "data passed to the trainer",
        config=getattr(info, "config_name", None),
        split=None if split is None else str(split),
        fingerprint=getattr(rows, "_fingerprint", None),
        n_train=len(train) if train is not None else None,
        n_eval=len(evaluation),
    )
