"""Arguments of an immunization run: `transformers.TrainingArguments` and what this method adds."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, cast

from transformers import Trainer, TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.utils import logging

from hf_immunize.data.streams import BUFFER_SIZE, DRAWN
from hf_immunize.errors import InputError, MissingPackageError
from hf_immunize.metrics.report import Protocol
from hf_immunize.models.activations import MOST_ON_DISK
from hf_immunize.objectives.objective import Objective
from hf_immunize.objectives.registry import OBJECTIVES, objective_named
from hf_immunize.training.unserved import check_numbers, check_optimizer_arguments, check_served

__all__ = ["ImmunizationArguments"]

logger = logging.get_logger(__name__)


@dataclass
class ImmunizationArguments(TrainingArguments):
    """`TrainingArguments` with λ, the objective, what trains, and the protocol of the measurement.

    Defaults that differ from `TrainingArguments`: 300 steps of 64 primary and 64 harmful images where neither
    ``max_steps`` nor ``num_train_epochs`` is given, a learning rate of 5e-4 with a tenth of the steps as warm-up, and
    no removal of unused columns (batches are nested). ``optim="sgd"`` comes with Nesterov momentum 0.9, as the paper
    trains its deep nets (arXiv 2505.23760, section 5.3).

    With ``gradient_accumulation_steps`` above 1 the regularizers are those of each micro-batch, averaged. Fields of
    `TrainingArguments` that an immunization cannot serve (:data:`hf_immunize.training.unserved.UNSERVED`) are refused.

    Raises:
        InputError: a λ that is negative or not a number, another value out of range, or one that is not served, when
            it is made.
    """

    _argument_group_name = "the training"

    per_device_train_batch_size: int = field(
        default=64, metadata={"help": "Primary images a step and process.", "aliases": ["--batch_size"]}
    )
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Images a forward pass when measuring."})
    num_train_epochs: float | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Passes over the primary data, in place of max_steps."}
    )
    max_steps: int = field(
        default=-1,
        metadata={
            "help": "Optimizer steps; where neither these nor num_train_epochs are given 300, or the objective's own."
        },
    )
    learning_rate: float = field(default=5e-4, metadata={"help": "Peak learning rate."})
    warmup_steps: float = field(
        default=0.1, metadata={"help": "Steps over which the learning rate rises; below 1 a share of all steps."}
    )
    logging_steps: float = field(default=20, metadata={"help": "Steps between two lines of the log."})
    optim: str = field(
        default="adamw_torch_fused", metadata={"help": "Optimizer; sgd comes with Nesterov momentum 0.9."}
    )
    optim_args: str | None = field(
        default=None,
        metadata={"help": "Extra arguments of the optimizer; for sgd momentum=0.9,nesterov=true unless given."},
    )
    gradient_accumulation_steps: int = field(
        default=1,
        metadata={
            "help": "Micro-batches of the batch size a step; the regularizers are those of each, averaged, and not "
            "those of all their images at once."
        },
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay false: batches are nested."})
    objective: str = field(
        default="condition",
        metadata={"help": "What is added to the task loss.", "choices": list(OBJECTIVES)},
    )
    lambda_primary: float = field(
        default=cast(float, None),
        metadata={"help": "Weight of R_well on the primary features; the objective's own unless given, 1 for most."},
    )
    lambda_harmful: float = field(
        default=cast(float, None),
        metadata={"help": "Weight of R_ill on the harmful features; the objective's own unless given, 0.3 for most."},
    )
    objective_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Further arguments of the objective as JSON, such as '{\"inner_steps\": 4}' for lto."},
    )
    scale_free: bool = field(
        default=True,
        metadata={"help": "Regularizers that no rescaling of the features changes; false gives the paper's raw form."},
    )
    max_accuracy_drop: float | None = field(
        default=None,
        metadata={
            "help": "Points of primary accuracy that the immunization may cost, on a tenth of the primary training "
            "images that is held out for it; the weight of all but the task loss then follows. None: the λ as they are."
        },
    )
    trainable: list[str] = field(
        default=cast(list[str], None),
        metadata={
            "help": "What trains: last (the last stage or block and the head), all, or patterns of modules. Unless "
            "given the objective's own, last for most."
        },
    )
    cache_frozen: Literal["auto", "on", "off"] = field(
        default="auto",
        metadata={
            "help": "Run the frozen part once per image and keep its activations: auto where nothing random stands "
            "before what trains, it pays, and there is room; on insists, off never does."
        },
    )
    cache_frozen_gb: float = field(
        default=MOST_ON_DISK / 1e9,
        metadata={
            "help": "Gigabytes of activations on disk, in the assets of the Hugging Face cache, where they take more "
            "than 1 GiB; never more than half of what is free there."
        },
    )
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={
            "help": "Go on from this checkpoint; last is the last one of the output folder.",
            "nargs": "?",
            "const": "last",
        },
    )
    hub_token: str | None = field(
        default=None, metadata={"help": "Of the Hub; the one that is logged in unless given.", "aliases": ["--token"]}
    )
    per_device_harmful_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Harmful images a step and process; the primary batch size unless given.",
            "aliases": ["--harmful_batch_size"],
        },
    )
    stream_buffer_size: int = field(
        default=BUFFER_SIZE, metadata={"help": "Rows among which a stream of training images is shuffled."}
    )
    stream_samples: int = field(
        default=DRAWN,
        metadata={"help": "Rows that are drawn of a stream to measure on, and for attackers to be fitted on."},
    )
    rir_groups: int = field(default=20, metadata={"help": "Groups of samples in the paper's protocol."})
    rir_group_size: int = field(default=100, metadata={"help": "Samples a group in the paper's protocol."})
    rir_max_samples: int = field(
        default=2_000, metadata={"help": "Samples of each task from which evaluate() draws its groups."}
    )

    def __post_init__(self) -> None:
        # A misspelt objective is said now, with the nearest one.
        kind = objective_named(self.objective)
        own = kind.defaults
        unchanged = {"scale_free": True, "lambda_primary": 0.0, "lambda_harmful": 0.0}
        idle = [name for name in sorted(kind.without_effect) if getattr(self, name) not in (None, unchanged[name])]
        if idle:
            logger.warning_once(f"The objective {self.objective!r} does not read {' and '.join(idle)}: without effect.")
        own = {**own, **{name: unchanged[name] for name in kind.without_effect}}
        for name in ("lambda_primary", "lambda_harmful", "trainable", "per_device_harmful_batch_size"):
            setattr(self, name, own[name] if getattr(self, name) is None else getattr(self, name))
        for name in ("lambda_primary", "lambda_harmful"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
                raise InputError(
                    f"{name} must be a finite number, zero or more, got {value!r}. 1.0 is a sensible start for the "
                    "scale-free form; 0 switches the term off. (YAML reads 5e-5 as a word: write 5.0e-5.)"
                )
        check_numbers(self)
        if self.max_grad_norm is None:
            # transformers compares it with 0, which stands for no clipping too.
            self.max_grad_norm = 0.0
        if self.max_accuracy_drop is not None:
            if not 0 < self.max_accuracy_drop < 100:
                raise InputError(
                    f"max_accuracy_drop must be points between 0 and 100 (0.5, say), got {self.max_accuracy_drop}. No "
                    "number of rows tells a drop of 0 from a small one."
                )
            if self.load_best_model_at_end:
                raise InputError(
                    "max_accuracy_drop and load_best_model_at_end both choose the weights that a run ends with. Leave "
                    "one away."
                )
        if self.max_steps == 0 or (self.num_train_epochs is not None and not self.num_train_epochs > 0):
            raise InputError("No step would be made. To measure a model without training it: evaluate_immunization(…).")
        if self.load_best_model_at_end and str(getattr(self.eval_strategy, "value", self.eval_strategy)) == "no":
            raise InputError("load_best_model_at_end chooses among evaluations, and there are none: set eval_strategy.")
        if str(getattr(self.save_strategy, "value", self.save_strategy)) == "best" and not self.metric_for_best_model:
            raise InputError(
                "save_strategy='best' needs the name of what is best: metric_for_best_model='eval_rir', say."
            )
        if not 0 <= self.label_smoothing_factor <= 1:
            raise InputError(f"label_smoothing_factor must be between 0 and 1, got {self.label_smoothing_factor}.")
        unknown = set(self.include_for_metrics) - {"inputs", "loss"}
        if unknown:
            raise InputError(f"include_for_metrics can hold inputs and loss, got {', '.join(sorted(unknown))}.")
        check_served(self)
        if self.cache_frozen not in ("auto", "on", "off"):
            raise InputError(f"cache_frozen must be 'auto', 'on' or 'off', got {self.cache_frozen!r}.")
        self.objective_kwargs = _parsed(self.objective_kwargs)
        # Arguments that the objective does not have are refused now.
        self.made_objective()
        if self.optim == "sgd" and self.optim_args is None:
            self.optim_args = "momentum=0.9,nesterov=true"
        self.trainable = _listed(self.trainable)
        if self.num_train_epochs is None:
            self.num_train_epochs = 3.0
            self.max_steps = own["max_steps"] if self.max_steps < 0 else self.max_steps
        elif self.max_steps > 0 and self.num_train_epochs != 3.0:
            logger.warning_once(
                f"max_steps={self.max_steps} decides; num_train_epochs={self.num_train_epochs} does not."
            )
        if self.greater_is_better is None and str(self.metric_for_best_model).endswith("rir_ii"):
            # What the immunization did to the primary task: `transformers` takes all but a loss for larger is better.
            self.greater_is_better = False
        try:
            super().__post_init__()
        except (ValueError, TypeError, ImportError, OSError, NotImplementedError) as error:
            # What TrainingArguments refuses is the user's to mend.
            raise InputError(str(error)) from error
        # Once more, for what was given as JSON.
        check_served(self)
        if self.fp16 and self.device.type == "cpu":
            raise InputError("fp16=True does nothing on a CPU. Take bf16=True, or leave it away.")
        try:
            Trainer.get_optimizer_cls_and_kwargs(self)
        except ImportError as error:
            raise MissingPackageError(f"optim={self.optim!r}: {error}") from error
        except (AttributeError, ValueError):
            # Optimizers that are made for a model ask for it; the Trainer hands it to them.
            pass
        check_optimizer_arguments(self)
        missing = sorted(set(self.report_to or ()) - set(get_available_reporting_integrations()))
        if missing:
            raise InputError(
                f"report_to: {', '.join(missing)} is not installed, or no tool that transformers reports to."
            )

    @property
    def harmful_batch_size(self) -> int:
        """Harmful images a step and process."""
        return self.per_device_harmful_batch_size or self.per_device_train_batch_size

    def made_objective(self) -> Objective:
        """The objective with its weights and further arguments."""
        given: dict[str, Any] = {**cast(dict[str, Any], self.objective_kwargs or {})}
        for name in ("lambda_primary", "lambda_harmful", "scale_free"):
            if name in given:
                raise InputError(f"objective_kwargs holds {name}, which is an argument of its own: --{name}.")
            given[name] = getattr(self, name)
        try:
            return objective_named(self.objective)(**given)
        except TypeError as error:
            raise InputError(f"objective_kwargs do not fit the objective {self.objective!r}: {error}.") from error

    @property
    def protocol(self) -> Protocol:
        """By which RIR is measured, in mid run and for the record."""
        return Protocol(self.rir_groups, self.rir_group_size)

    @property
    def selection(self) -> str | list[str]:
        """What trains, as :func:`hf_immunize.select_trainable` takes it."""
        return self.trainable[0] if self.trainable in (["last"], ["all"]) else list(self.trainable)

    def as_control(self, **changes: Any) -> ImmunizationArguments:
        """The same steps with λ = 0: plain fine-tuning, without checkpoints and evaluations on the way."""
        values = {name: getattr(self, name) for name in _initial(type(self))}
        plain = {"objective": "condition", "lambda_primary": 0.0, "lambda_harmful": 0.0, "objective_kwargs": None}
        quiet = {"save_strategy": "no", "eval_strategy": "no", "load_best_model_at_end": False, "push_to_hub": False}
        return type(self)(**(values | plain | quiet | {"resume_from_checkpoint": None} | changes))


def _parsed(given: dict[str, Any] | str | None) -> dict[str, Any] | None:
    """A dictionary of the command line."""
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError as error:
            raise InputError(f"objective_kwargs must be JSON, got {given!r}: {error}.") from error
    if given is not None and not isinstance(given, dict):
        raise InputError(f"objective_kwargs must be a dictionary, got {given!r}.")
    return given


def _listed(given: str | Sequence[str]) -> list[str]:
    """``"last"``, ``"layer4,fc"`` and lists alike as a list of names or patterns."""
    parts = given.split(",") if isinstance(given, str) else list(given)
    named = [part.strip() for part in parts if part.strip()]
    if not named:
        raise InputError(f"trainable must be 'last', 'all' or patterns of modules, got {given!r}.")
    return named


def _initial(kind: type[ImmunizationArguments]) -> list[str]:
    return [one.name for one in fields(kind) if one.init]
