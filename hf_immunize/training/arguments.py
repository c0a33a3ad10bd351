"""Arguments of an immunization run: `transformers.TrainingArguments` and what this method adds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from transformers import TrainingArguments

from hf_immunize.errors import InputError

__all__ = ["ImmunizationArguments"]


@dataclass
class ImmunizationArguments(TrainingArguments):
    """`TrainingArguments` with λ, the objective, what trains, and the protocol of the measurement.

    Defaults that differ from `TrainingArguments`: a learning rate of 5e-4, and no removal of unused columns (batches
    are nested). ``optim="sgd"`` comes with Nesterov momentum 0.9, as the paper trains its deep nets (section 5.3).

    Raises:
        ValueError: a λ that is negative or not a number, or another value out of range, when it is made.
    """

    learning_rate: float = field(default=5e-4, metadata={"help": "Peak learning rate."})
    optim: str = field(default="adamw_torch", metadata={"help": "Optimizer; sgd comes with Nesterov momentum 0.9."})
    optim_args: str | None = field(
        default=None,
        metadata={"help": "Extra arguments of the optimizer; for sgd momentum=0.9,nesterov=true unless given."},
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay false: batches are nested."})
    objective: str = field(
        default="condition",
        metadata={"help": "What is added to the task loss: condition, r_ill_only, opt_kappa, opt_log_kappa or imma."},
    )
    lambda_primary: float = field(default=1.0, metadata={"help": "Weight of R_well on the primary features."})
    lambda_harmful: float = field(default=0.3, metadata={"help": "Weight of R_ill on the harmful features."})
    scale_free: bool = field(
        default=True,
        metadata={"help": "Regularizers that no rescaling of the features changes; false gives the paper's raw form."},
    )
    trainable: str | list[str] = field(
        default="last",
        metadata={"help": "What trains: last (the last stage or block and the head), all, or patterns of modules."},
    )
    per_device_harmful_batch_size: int | None = field(
        default=None, metadata={"help": "Harmful images a step and process; the primary batch size unless given."}
    )
    rir_groups: int = field(default=20, metadata={"help": "Groups of samples in the paper's protocol."})
    rir_group_size: int = field(default=100, metadata={"help": "Samples a group in the paper's protocol."})
    rir_max_samples: int = field(
        default=2_000, metadata={"help": "Samples of each task from which evaluate() draws its groups."}
    )

    def __post_init__(self) -> None:
        for name in ("lambda_primary", "lambda_harmful"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
                raise InputError(
                    f"{name} must be a finite number, zero or more, got {value!r}. 1.0 is a sensible start for the "
                    "scale-free form; 0 switches the term off. (YAML reads 5e-5 as a word: write 5.0e-5.)"
                )
        for name in ("rir_groups", "per_device_harmful_batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be 1 or more, got {value}.")
        for name in ("rir_group_size", "rir_max_samples"):
            if getattr(self, name) < 2:
                raise InputError(f"{name} must be 2 or more, got {getattr(self, name)}: one sample has κ = 1 always.")
        if self.remove_unused_columns:
            raise InputError("remove_unused_columns=True would empty the nested batches. Leave it false.")
        if self.optim == "sgd" and self.optim_args is None:
            self.optim_args = "momentum=0.9,nesterov=true"
        super().__post_init__()

    @property
    def harmful_batch_size(self) -> int:
        """Harmful images a step and process."""
        return self.per_device_harmful_batch_size or self.per_device_train_batch_size
