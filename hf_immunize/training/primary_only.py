"""The network of the primary task alone: what that task teaches about the harmful one, without any release."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from hf_immunize.errors import InputError
from hf_immunize.training.arguments import ImmunizationArguments
from hf_immunize.training.trainer import ImmunizationTrainer

__all__ = ["PRIMARY_ONLY_STEPS", "PrimaryOnlyTrainer", "check_ceiling_steps", "primary_only_arguments"]

#: Where no number is given: with batches of 64, 38,400 images.
PRIMARY_ONLY_STEPS = 600
#: Peak of a cosine schedule with a tenth of the steps as warm-up, and weight decay: usual for training from scratch.
RATE, WEIGHT_DECAY = 1e-3, 0.05


class PrimaryOnlyTrainer(ImmunizationTrainer):
    """Trains all weights on the primary task alone, BatchNorms and dropout as in any training from scratch."""

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Cross-entropy of the primary batch; nothing is kept still, since random weights have no statistics."""
        return super().compute_loss(model, inputs.get("primary", inputs), return_outputs)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        # Weights that a model does not use have no gradient; among all of them nobody chose them.
        for one in model.parameters():
            one.requires_grad_(one.requires_grad and (self.state.global_step > 0 or one.grad is not None))
        return super()._get_grad_norm(model, grad_norm)


def check_ceiling_steps(steps: int) -> None:
    """Refuses a number of steps with which nothing would be trained.

    Raises:
        InputError: it is below 1.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"ceiling_steps must be a whole number of at least 1, got {steps!r}.")


def primary_only_arguments(
    args: ImmunizationArguments, folder: Path, steps: int, **changes: Any
) -> ImmunizationArguments:
    """Arguments of that training: batches, precision and seed of the immunization, all else its own."""
    return args.as_control(
        output_dir=str(folder),
        max_steps=steps,
        learning_rate=RATE,
        warmup_steps=0.1,
        lr_scheduler_type="cosine",
        lr_scheduler_kwargs=None,
        optim="adamw_torch_fused",
        optim_args=None,
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=1.0,
        trainable=["all"],
        cache_frozen="off",
        # Of all weights some may be ones that the model does not use.
        ddp_find_unused_parameters=True,
        **changes,
    )
