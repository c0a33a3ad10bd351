"""A Trainer that trains what it was made for: its model and its objective, on data read as those that it was given."""

from __future__ import annotations

import copy
from typing import Any, NoReturn

import torch
from torch import nn
from transformers import Trainer
from transformers.trainer_utils import TrainOutput

from hf_immunize.errors import InputError
from hf_immunize.models.forward import without_autocast
from hf_immunize.models.rebuilding import check_rebuilds
from hf_immunize.training.evaluating import DATA, Evaluating
from hf_immunize.training.ratio_in_mid_run import RatioInMidRun
from hf_immunize.training.unserved import check_served

__all__ = ["AsMade"]

#: Arguments that are read when the Trainer is made, and never again.
_READ_ONCE = (
    *("objective", "lambda_primary", "lambda_harmful", "scale_free", "objective_kwargs"),
    *("trainable", "max_accuracy_drop"),
)
_BATCH = (
    "A batch of this training holds 'primary' and 'harmful', each with 'pixel_values' and 'labels', and the Trainer's "
    "own compute_loss adds what immunizes: call super().compute_loss(…). For another loss of the primary task alone "
    "pass compute_loss_func to the Trainer."
)


class AsMade(Evaluating):
    """The part of a Trainer that sees to what was changed since it was made, before it trains or evaluates."""

    _made_with: dict[str, Any]
    _data: dict[str, Any]
    _trained: set[str]
    _still: list[nn.Parameter]

    def _as_made(self) -> None:
        """Remembers the arguments that nothing reads again, and says where what is saved would not load as it is.

        Raises:
            InputError: a subclass that draws the order of its samples itself; a model that is to be pushed and cannot.
        """
        try:
            check_rebuilds(self.model, self.processing_class)
        except InputError as error:
            if self.args.push_to_hub:
                raise
            self._rebuilds = False
            self._say(str(error))
        self._trained = {name for name, one in self._network.named_parameters() if one.requires_grad}
        self._still = [one for one in self._network.parameters() if not one.requires_grad]
        self._made_with = {name: copy.deepcopy(getattr(self.args, name)) for name in _READ_ONCE}
        self._data = {name: getattr(self, name) for name in DATA}
        if self.own_task_loss is not None:
            self._note(f"the task loss is {getattr(self.own_task_loss, '__name__', self.own_task_loss)}")
        if type(self)._get_train_sampler is not Trainer._get_train_sampler:
            raise InputError(
                f"{type(self).__name__} has a _get_train_sampler of its own, which nothing asks: both streams are "
                "drawn by data_seed (or seed). To weigh rows, select some more than once: dataset.select(indices)."
            )

    def _check_as_made(self) -> None:
        """Refuses another model or objective than the Trainer was made with, and reads data that were set since.

        Raises:
            InputError: with what was changed, or an argument of now that is not served.
        """
        if self._network is not self._architecture.model:
            raise InputError(
                "trainer.model is another one than the Trainer was made with, to which θ0 and what trains belong. Make "
                "a new ImmunizationTrainer for it."
            )
        for name, before in self._made_with.items():
            if getattr(self.args, name) != before:
                raise InputError(
                    f"{name} is {getattr(self.args, name)!r} now, and was {before!r} when the Trainer was made, which "
                    "reads it once. Make a new ImmunizationTrainer for another."
                )
        check_served(self.args)
        for attribute in DATA:
            data = getattr(self, attribute)
            if data is not self._data.get(attribute):
                setattr(self, attribute, self._read(attribute, data))
                self._data[attribute] = getattr(self, attribute)
                self.say_what_is_shared({name: getattr(self, held) for held, name in DATA.items()})

    def _check_what_trains(self) -> None:
        """Refuses other trainable parameters than those that were chosen when the Trainer was made, with θ0."""
        now = {name for name, one in self._network.named_parameters() if one.requires_grad}
        if now != self._trained:
            others = sorted(now ^ self._trained)
            raise InputError(
                f"requires_grad of {len(others)} parameters ({others[0]}, say) was changed since the Trainer was made, "
                "which chose what trains and took θ0 by it. Say what trains by the argument trainable: 'last', 'all', "
                "or patterns of modules."
            )

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """As the Trainer's; θ0 are the weights as they are now, unless this Trainer has trained them before.

        With ``bf16`` or ``fp16`` the steps run under autocast; the model that comes out does not, nor what is measured.
        """
        self._check_as_made()
        self._check_what_trains()
        goes_on = args[0] if args else kwargs.get("resume_from_checkpoint")
        if self.state.global_step == 0:
            self._theta_zero.take(self._network)
            self._ratio = RatioInMidRun()
        elif not goes_on:
            self._say(f"{self.state.global_step} steps came before, of an earlier call of train()")
        try:
            return super().train(*args, **kwargs)
        finally:
            # The Trainer leaves its autocast on the model, and whatever is measured or handed on would be in 16 bits.
            without_autocast(self.model)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's; a ``compute_loss`` of a subclass that is written for one task is told what a batch holds.

        Raises:
            InputError: it looks for what a batch does not hold, or leaves the objective out.
        """
        before = self._parts_steps
        if any(one.requires_grad for one in self._still):
            self._check_what_trains()
        try:
            # Whoever switched gradients off for something else wants them here.
            with torch.enable_grad():
                loss = super().training_step(*args, **kwargs)
        except (KeyError, TypeError) as error:
            if not any(word in str(error) for word in ("'labels'", "'pixel_values'", "'primary'")):
                raise
            raise InputError(f"{type(error).__name__}: {error}. {_BATCH}") from error
        if self._is_active and self._parts_steps == before:
            raise InputError(f"compute_loss of {type(self).__name__} leaves the objective out. {_BATCH}")
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As the Trainer's."""
        self._check_as_made()
        return super().evaluate(*args, **kwargs)

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """See :meth:`hf_immunize.training.publishing.Publishing.push_to_hub`."""
        self._check_as_made()
        return super().push_to_hub(*args, **kwargs)

    def hyperparameter_search(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused.

        Raises:
            InputError: always.
        """
        raise InputError(
            "hyperparameter_search makes a model anew for each trial, and θ0 and what trains belong to one. Make a "
            "trainer for each trial (`scripts/sweep.py` tries λ_P × λ_H), or bound the price: max_accuracy_drop."
        )
