"""A budget of primary accuracy in place of λ: rows held out, a multiplier that follows them, and the weights kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import Subset
from transformers import TrainerCallback
from transformers.utils import logging

from hf_immunize.data.random_numbers import undisturbed_random_numbers
from hf_immunize.data.streams import is_stream
from hf_immunize.errors import InputError
from hf_immunize.training.arguments import ImmunizationArguments
from hf_immunize.training.theta_zero import ThetaZero

__all__ = ["AccuracyBudget", "held_out_count", "split_held_out"]

logger = logging.get_logger(__name__)

#: The kept weights in a checkpoint.
KEPT_NAME = "kept_weights.safetensors"
#: Held-out rows are a tenth of the primary ones within these bounds; so many at least are left to train on.
FEWEST, MOST = 100, 1_000
#: Steps between two measurements, or this share of the run where that is longer.
EVERY, SHARE = 10, 0.02
#: Bounds of the multiplier, and how far one measurement moves its logarithm at most: down, and up.
BOUNDS = (1e-4, 1.0)
FALL, RISE = math.log(4), math.log(1.5)


class AccuracyBudget(TrainerCallback):
    """Keeps a training within a loss of primary accuracy, measured on rows that no step sees.

    The budget b (points) bounds max over the weights of the protection, and its multiplier is found by dual ascent in
    the logarithm (exponentiated gradient): every 10 steps or 2 % of the run the drop against θ0 is measured, and the
    multiplier on all parts of the loss but the task's moves by exp(η · (b − drop)/b), η at most ln 1.5 upwards and ln 4
    downwards, between 1e-4 and 1, where it starts. The run ends with the strongest of the states that were measured
    within the budget: the one with the smallest sum of the objective's parts, their mean since the measurement before;
    with θ0 where no state was within it.

    Args:
        args: of the run, with ``max_accuracy_drop``.
        model: unwrapped; its trainable parameters are read, and set at the end.
        theta_zero: what it was before the first step.
        accuracy: of the model as it is now on the held-out rows, and how many they are; the same in all processes.
        say: takes a note of the run.
    """

    def __init__(
        self,
        args: ImmunizationArguments,
        model: nn.Module,
        theta_zero: ThetaZero,
        accuracy: Callable[[], tuple[float, int]],
        say: Callable[[str], None],
    ) -> None:
        assert args.max_accuracy_drop is not None, "or there is nothing to keep"
        self.points = args.max_accuracy_drop
        self._model, self._theta_zero, self._measured, self._say = model, theta_zero, accuracy, say
        self._start_anew()

    def _start_anew(self) -> None:
        self.multiplier = 1.0
        self._initial: tuple[float, int] | None = None
        #: Step, accuracy, protection, and the multiplier that the steps before it had.
        self._course: list[tuple[int, float, float, float]] = []
        self._best: int | None = None
        self._kept: ThetaZero | None = None
        self._sum, self._steps = torch.zeros((), dtype=torch.float64), 0

    # ------------------------------------------------------------------ steps

    def weighted(self, parts: Mapping[str, torch.Tensor], *, noted: bool) -> dict[str, torch.Tensor]:
        """The parts of a loss with the multiplier on all but ``task_loss``; noted as protection where asked."""
        asked = {name: part for name, part in parts.items() if name != "task_loss"}
        if noted and asked:
            self._sum = self._sum + torch.stack([part.detach().double() for part in asked.values()]).sum()
            self._steps += 1
        return dict(parts) | {name: self.multiplier * part for name, part in asked.items()}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measures θ0, unless the run goes on from a checkpoint."""
        if state.global_step == 0:
            self._start_anew()
            with self._theta_zero.put_back(self._model):
                self._initial = self._accuracy()
        assert self._initial is not None, "a checkpoint carries it"
        accuracy, n = self._initial
        error = 100 * math.sqrt(accuracy * (1 - accuracy) / n)
        self._say(
            f"{n} primary rows are held out for the budget of {self.points:g} points; θ0 has {accuracy:.2%} there"
        )
        if self.points < error:
            self._say(
                f"a budget of {self.points:g} points is below the sampling error of {n} rows ({error:.2g} points): it "
                "is kept on them, and may be exceeded by that much on others"
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measures, moves the multiplier, and keeps the weights; the last step ends with the kept ones."""
        every = max(EVERY, round(SHARE * state.max_steps))
        if state.global_step % every == 0 or state.global_step >= state.max_steps:
            self._measure(state.global_step)
        if state.global_step >= state.max_steps:
            # Before the last checkpoint and the last evaluation, so that these are of what the run ends with.
            self._end()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Likewise of a run that was stopped early."""
        if state.global_step < state.max_steps:
            if not self._course or self._course[-1][0] < state.global_step:
                self._measure(state.global_step)
            self._end()

    def _measure(self, step: int) -> None:
        accuracy, _ = self._accuracy()
        protection = self._sum.item() / max(self._steps, 1)
        self._course.append((step, accuracy, protection, self.multiplier))
        self._sum, self._steps = torch.zeros((), dtype=torch.float64), 0
        room = self.points - self._drop(accuracy)
        # Exactly on the budget is within it, whatever the rounding of two shares.
        if room >= -1e-9 and (self._best is None or protection < self._course[self._best][2]):
            self._best = len(self._course) - 1
            self._kept = ThetaZero(self._model)
        moved = max(-FALL, min(RISE, RISE * room / self.points))
        self.multiplier = min(BOUNDS[1], max(BOUNDS[0], self.multiplier * math.exp(moved)))

    def _end(self) -> None:
        (self._kept or self._theta_zero).load_into(self._model)
        if self._best is None:
            smallest = min(self._drop(one) for _, one, *_ in self._course)
            told = (
                f"the budget of {self.points:g} points was kept by none of the {len(self._course)} states measured "
                f"(the smallest drop is {smallest:.2f} points): the run ends with θ0, without protection. Give a "
                "larger max_accuracy_drop, a lower learning rate, or more steps"
            )
            logger.warning(told)
        else:
            step, accuracy, *_ = self._course[self._best]
            within = sum(self._drop(one) <= self.points + 1e-9 for _, one, *_ in self._course)
            told = (
                f"the weights are those of step {step}, the strongest of {within} measured states within the budget "
                f"({len(self._course)} measured): {self._drop(accuracy):.2f} of {self.points:g} points are lost"
            )
            logger.info(told)
        self._say(told)

    def _drop(self, accuracy: float) -> float:
        assert self._initial is not None, "θ0 is measured before any step"
        return 100 * (self._initial[0] - accuracy)

    @undisturbed_random_numbers(seed=0)
    def _accuracy(self) -> tuple[float, int]:
        return self._measured()

    # ------------------------------------------------------------------ kept and told

    @property
    def facts(self) -> dict[str, Any] | None:
        """What a record says: asked, held-out rows, accuracies (shares), the step kept, and the course."""
        if self._initial is None:
            return None
        kept = None if self._best is None else self._course[self._best]
        return {
            "max_accuracy_drop": self.points,
            "held_out": self._initial[1],
            "initial_accuracy": self._initial[0],
            "final_accuracy": self._initial[0] if kept is None else kept[1],
            "kept_step": None if kept is None else kept[0],
            "course": [
                dict(zip(("step", "accuracy", "protection", "multiplier"), one, strict=True)) for one in self._course
            ],
        }

    @property
    def figures(self) -> dict[str, float]:
        """What a line of the log says."""
        measured = {"held_out_accuracy": self._course[-1][1]} if self._course else {}
        return {"multiplier": self.multiplier} | measured

    def store(self, folder: Path) -> dict[str, Any]:
        """Writes the kept weights into the folder of a checkpoint; the rest is returned, for JSON."""
        if self._kept is not None:
            save_file({name: one.contiguous() for name, one in self._kept.weights.items()}, folder / KEPT_NAME)
        return {
            "multiplier": self.multiplier,
            "initial": self._initial,
            "course": self._course,
            "best": self._best,
            "sum": self._sum.item(),
            "steps": self._steps,
        }

    def restore(self, state: Mapping[str, Any], folder: Path) -> None:
        """Goes on from what :meth:`store` left in a checkpoint."""
        self.multiplier, self._best, self._steps = state["multiplier"], state["best"], state["steps"]
        self._initial = tuple(state["initial"])
        self._course = [tuple(one) for one in state["course"]]
        self._sum = torch.tensor(state["sum"], dtype=torch.float64)
        self._kept = None
        if self._best is not None:
            self._kept = ThetaZero(self._model)
            self._kept.weights = load_file(folder / KEPT_NAME)


def held_out_count(n: int, points: float) -> int:
    """Rows of ``n`` to hold out: a tenth, more where one row would be more than the budget, between 100 and 1,000.

    Raises:
        InputError: fewer rows would be left to train on than are held out.
    """
    count = min(MOST, max(FEWEST, n // 10, math.ceil(100 / points)))
    if n < 2 * count:
        raise InputError(
            f"A budget of {points:g} points takes {count} held-out rows, and of {n} primary rows only "
            f"{max(n - count, 0)} would be left to train on. Give {2 * count} rows or more, a larger "
            "max_accuracy_drop, or λ in its place."
        )
    return count


def split_held_out(data: Any, args: ImmunizationArguments) -> tuple[Any, Any]:
    """The primary rows that a run with a budget trains on, and those held out, drawn by the seed of the data.

    Args:
        data: of the primary task.
        args: of the run, with ``max_accuracy_drop``.

    Raises:
        InputError: a stream, or too few rows.
    """
    if is_stream(data):
        raise InputError(
            "max_accuracy_drop holds primary rows out, and a stream has none that could be. Load the primary data as a "
            "data set, or set lambda_primary and lambda_harmful in its place."
        )
    count = held_out_count(len(data), float(args.max_accuracy_drop or 0))
    seed = args.seed if args.data_seed is None else args.data_seed
    rows = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed)).tolist()
    return _Rows(data, sorted(rows[count:])), Subset(data, sorted(rows[:count]))


class _Rows(Subset):
    """Some rows of a data set, which is told the epoch."""

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)
