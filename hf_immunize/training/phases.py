"""What of a training changes where its objective begins something else: weights, what trains, the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Subset
from transformers import TrainerCallback, get_scheduler
from transformers.trainer_utils import TrainOutput

from hf_immunize.data.collate import on_device
from hf_immunize.data.random_numbers import undisturbed_random_numbers
from hf_immunize.data.streams import first_samples, is_stream
from hf_immunize.errors import InputError
from hf_immunize.models.forward import evaluating
from hf_immunize.models.random_weights import estimate_statistics
from hf_immunize.models.trainable import batch_norms_behind, select_trainable
from hf_immunize.objectives.objective import ModelObjective
from hf_immunize.training.arguments import ImmunizationArguments
from hf_immunize.training.trainer_part import TrainerPart

__all__ = ["Phased", "restarted"]

#: Primary images that statistics are estimated on.
STATISTICS_OF = 512


class Phased(TrainerPart):
    """The part of a Trainer that serves objectives of several phases."""

    _narrowed = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_callback(_Begins(self))

    @property
    def _begins_elsewhere(self) -> ModelObjective | None:
        """The objective, where it changes the weights before the first step."""
        one = self.objective
        return one if isinstance(one, ModelObjective) and one.begins_elsewhere and self._is_active else None

    @property
    def _moving(self) -> dict[str, nn.modules.batchnorm._BatchNorm]:
        """The BatchNorms whose statistics are estimated anew before the first step, by name."""
        return {} if self._begins_elsewhere is None else batch_norms_behind(self.model)

    def begin(self) -> None:
        """Lets the objective change the weights, and gives the BatchNorms behind them statistics that fit."""
        if self._begins_elsewhere is None:
            return
        model, moving = self._network, self._moving
        if self.state.global_step == 0:
            # The same rows and draws in every process.
            with undisturbed_random_numbers(self.args.seed), evaluating(model):
                self._begins_elsewhere.begin(model, self.args.seed)
                if moving:
                    estimate_statistics(model, list(moving.values()), self._primary_batches())
        changed = f", and {len(moving)} BatchNorms got statistics of primary images" if moving else ""
        note = f"{self.objective.name}: the weights that train were changed before the first step{changed}"
        self.notes[:] = [*(one for one in self.notes if one != note), note]

    def _primary_batches(self) -> Iterator[dict[str, torch.Tensor]]:
        """Up to 512 primary images, drawn by the seed."""
        data, size = self.train_dataset, max(2, self.args.per_device_eval_batch_size)
        rows: Any = (
            first_samples(data, STATISTICS_OF)
            if is_stream(data)
            else Subset(data, torch.randperm(len(data))[:STATISTICS_OF].tolist())
        )
        for start in range(0, len(rows) - 1, size):
            batch = self.stream_collator([rows[index] for index in range(start, min(start + size, len(rows)))])
            yield on_device(batch, self.args.device)

    @property
    def _settles_from(self) -> float | None:
        return self.objective.settles_from if isinstance(self.objective, ModelObjective) else None

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """The schedule of the arguments, begun anew where the objective settles."""
        share = self._settles_from
        if share is not None and self.lr_scheduler is None:
            given = cast(torch.optim.Optimizer, self.optimizer if optimizer is None else optimizer)
            self.lr_scheduler = restarted(self.args, given, num_training_steps, share)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def check_phases(self) -> None:
        """Refuses a choice of what trains of which the last phase would leave nothing.

        Raises:
            InputError: the last block would train alone, and is not among it.
        """
        trained = {name for name, one in self._network.named_parameters() if one.requires_grad}
        if self._settles_from is not None and not trained & self._architecture.last_block:
            raise InputError(
                f"The objective {self.objective.name!r} ends with steps of the last block alone, and "
                f"trainable={self.args.trainable} leaves it out. Add it, or give objective_kwargs={{'settling': 0}}."
            )

    def settle(self, objective: ModelObjective) -> None:
        """What a step begins with: once the objective settles, the last block trains alone."""
        done, steps = self.state.global_step, max(self.state.max_steps, 1)
        settles = objective.settles(done / steps)
        begins = settles and done > 0 and not objective.settles((done - 1) / steps)
        if begins and not self._narrowed and self.model.training:
            # Moments of the whole network's gradient are of another scale.
            cast(torch.optim.Optimizer, self.optimizer).state.clear()
        self.narrow(settles)

    def narrow(self, last_block: bool) -> None:
        """Narrows what trains to the last block, once, or gives back what was chosen."""
        if last_block == self._narrowed:
            return
        self._narrowed = last_block
        select_trainable(self._network, self.args.selection, self._architecture.sample)
        if last_block:
            for name, parameter in self._network.named_parameters():
                parameter.requires_grad_(parameter.requires_grad and name in self._architecture.last_block)

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """As the Trainer's; what was chosen to train is given back at the end."""
        try:
            return super().train(*args, **kwargs)
        finally:
            self.narrow(False)


class _Begins(TrainerCallback):
    """Before the first step, after a checkpoint was read."""

    def __init__(self, trainer: Phased) -> None:
        self.trainer = trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.trainer.begin()


def restarted(
    args: ImmunizationArguments, optimizer: torch.optim.Optimizer, steps: int, share: float
) -> LambdaLR | None:
    """The schedule of the arguments twice: over the first ``share`` of the steps, and over the others.

    Returns:
        None where the schedule is no function of the step alone.
    """
    first = math.ceil(share * steps - 1e-9)
    before, after = (_factor(args, one) for one in (first, steps - first))
    if before is None or after is None:
        return None
    return LambdaLR(optimizer, lambda step: before(step) if step < first else after(step - first))


def _factor(args: ImmunizationArguments, steps: int) -> Callable[[int], float] | None:
    """Step → share of the peak learning rate."""
    nobody = torch.optim.SGD([torch.zeros((), requires_grad=True)], lr=1.0)
    made = get_scheduler(
        args.lr_scheduler_type,
        optimizer=nobody,
        num_warmup_steps=args.get_warmup_steps(steps),
        num_training_steps=max(steps, 1),
        scheduler_specific_kwargs=cast(dict[str, Any] | None, args.lr_scheduler_kwargs),
    )
    return made.lr_lambdas[0] if isinstance(made, LambdaLR) else None
