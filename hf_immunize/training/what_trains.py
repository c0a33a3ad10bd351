"""Whether what trains is what an objective moves."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hf_immunize.errors import InputError
from hf_immunize.models.forward import evaluating
from hf_immunize.models.head import features_and_logits, find_head
from hf_immunize.models.trainable import blocks_that_train
from hf_immunize.objectives.objective import ModelObjective, Objective

__all__ = ["check_features_move", "check_hidden", "check_immunizes", "check_own_optimizer"]


def check_immunizes(objective: Objective) -> None:
    """Raises InputError where both λ are 0: a card would call plain fine-tuning an immunized release."""
    if not (objective.uses_primary or objective.uses_harmful):
        raise InputError(
            "lambda_primary and lambda_harmful are both 0: this is plain fine-tuning, and its card would call it "
            "immunized. Give one of them a weight; the control is trained beside it anyway."
        )


def check_hidden(objective: Objective, model: nn.Module, inputs: Any) -> None:
    """Refuses an objective that acts on blocks before the head where none of them trains.

    Raises:
        InputError: the head trains alone.
    """
    trained = {name for name, _ in blocks_that_train(model)}
    if (
        isinstance(objective, ModelObjective)
        and objective.reads_hidden
        and trained <= set(find_head(model, inputs).names)
    ):
        raise InputError(
            f"The objective {objective.name!r} acts on blocks before the head, and the head trains alone. Choose more, "
            "trainable='last' say."
        )


def check_features_move(model: nn.Module, inputs: Any) -> None:
    """Refuses regularizers of features that nothing moves: the run would go to its end with RIR 1.

    Raises:
        InputError: no weight before the features trains.
    """
    with torch.enable_grad(), evaluating(model):
        features, _ = features_and_logits(model, inputs)
    if not features.requires_grad:
        raise InputError(
            "No weight before the features trains, which R_well and R_ill read: they could not move. Choose more, "
            "trainable='last' or 'all', or parts by name; or lambda_primary=0 and lambda_harmful=0 for the head alone."
        )


def check_own_optimizer(optimizer: torch.optim.Optimizer | None, model: nn.Module) -> None:
    """Refuses an optimizer of the user's own that leaves out weights that are to train.

    Raises:
        InputError: with their number and the first name.
    """
    if optimizer is None:
        return
    held = {id(one) for group in optimizer.param_groups for one in group["params"]}
    left = [name for name, one in model.named_parameters() if one.requires_grad and id(one) not in held]
    if left:
        raise InputError(
            f"The optimizer that was given leaves out {len(left)} of the parameters that train ({left[0]}, say). Give "
            "it those that select_trainable(model, …) leaves with requires_grad, or name in trainable what it holds."
        )
