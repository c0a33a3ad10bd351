"""Simulated attackers: the model is moved to where fine-tuners who live beside it know nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch

from hf_immunize.errors import InputError
from hf_immunize.objectives.condition import Condition
from hf_immunize.objectives.fine_tuner import FineTuner, Traits, rows_of
from hf_immunize.objectives.objective import (
    ModelObjective,
    Objective,
    Phase,
    StepView,
    checked_count,
    part_with_slopes,
    unit_slopes,
)

__all__ = ["SimulatedAttackers"]

#: Harmful images of a batch that a fine-tuner is judged by, and the most of them; the others are what it trains on.
QUERY_SHARE, MOST_QUERIES = 1 / 4, 32
#: Harmful images whose spectrum R_ill reads, and its weight beside λ_H.
SPECTRUM_OF, R_ILL = 64, 0.1


class SimulatedAttackers(ModelObjective):
    """First-order meta-learning against fine-tuning (after SOPHON, arXiv 2404.12699), with attackers that persist.

    A few :class:`~hf_immunize.objectives.fine_tuner.FineTuner` live beside the model. At each step one of them follows
    the model, goes on fine-tuning for ``inner_steps`` batches of 16 harmful images, and is then judged on images that
    it did not train on: the gradient of KL(uniform ‖ its prediction) at *its* weights is what moves the *model*
    (straight through; second derivatives are left out). An attacker that has lived for its number of steps is replaced
    by one of other traits.

    Against heads the primary loss has R_well and R_ill beside it, as in
    :class:`~hf_immunize.objectives.condition.Condition`, all along: added to a model that is done they move it away
    from where fine-tuning is slow (figures in ``model_cards/methods``). The gradient of these three together and that
    of the attackers are each scaled to norm 1 (times λ_H), so that neither drowns the other.

    A step costs 16 · ``inner_steps`` + 96 images forward and backward beside the primary batch, and each attacker holds
    up to four times the weights in memory. What fine-tuning beyond the longest life does is not simulated.

    Args:
        lambda_primary: weight λ_P ≥ 0 of R_well.
        lambda_harmful: norm λ_H ≥ 0 of the attackers' gradient, where that of the others is 1; 0.1 λ_H is the weight of
            R_ill.
        scale_free: of the regularizers.
        attackers: how many live at once.
        inner_steps: how far one goes on at a step.
        lives: numbers of steps after which an attacker is replaced, one of which is drawn for each.

    Raises:
        ValueError: counts below 1, and at a step missing labels or fewer than eight harmful images.
    """

    name = "simulated_attackers"
    defaults: ClassVar[Mapping[str, Any]] = {
        **Objective.defaults,
        "lambda_harmful": 1.0,
        "max_steps": 600,
        "trainable": ["all"],
        "per_device_harmful_batch_size": 160,
    }
    needs_harmful_labels = True
    exact_over_processes = False
    # Attackers grow older while the model trains, and young ones know little of any model.
    tells_strength = False

    def __init__(
        self,
        lambda_primary: float = 1.0,
        lambda_harmful: float = 1.0,
        scale_free: bool = True,
        attackers: int = 5,
        inner_steps: int = 6,
        lives: Sequence[int] = (100, 200, 400, 600),
    ) -> None:
        super().__init__(lambda_primary, lambda_harmful, scale_free)
        self.attackers = checked_count("attackers", attackers)
        self.inner_steps = checked_count("inner_steps", inner_steps)
        self.lives = [checked_count("lives", one) for one in lives]
        if not self.lives:
            raise InputError("lives must hold a number of steps or more, got none.")
        self._condition = Condition(lambda_primary, R_ILL * lambda_harmful, scale_free)
        self._living: dict[int, FineTuner] = {}
        self._loaded: Mapping[int, Any] | None = None
        self._turn = self._born = self._n_classes = 0

    def phase(self, progress: float) -> Phase:
        """See :meth:`ModelObjective.phase`: every step is alike."""
        kept = ("task_loss", *(["r_well"] if self.uses_primary else []), "r_ill")
        return Phase(harmful_features=False, balanced=kept if self.uses_harmful else ())

    def of_step(self, step: StepView, gather: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, torch.Tensor]:
        """See :meth:`ModelObjective.of_step`: ``ignorance`` in nats, times λ_H, ``r_well`` and ``r_ill``."""
        primary = gather(step.primary_features)
        if not self.uses_harmful:
            return self._condition(primary, step.harmful_features)
        labels = step.harmful.get("labels")
        if labels is None or labels.is_floating_point():
            raise InputError(f"The objective {self.name!r} fits heads and needs the class numbers of harmful data.")
        if len(labels) < 8:
            raise InputError(f"The objective {self.name!r} needs eight harmful images in a batch, got {len(labels)}.")
        if self._loaded is not None:
            self._living = {place: FineTuner.of_state(one, step) for place, one in self._loaded.items()}
            self._loaded = None
        queries = min(MOST_QUERIES, int(QUERY_SHARE * len(labels)))
        one = self._next(step, int(labels.max()) + 1)
        one.follow(step)
        one.fine_tune(step, rows_of(step.harmful, slice(queries, None)), self.inner_steps)
        value, slopes = one.ignorance(step, rows_of(step.harmful, slice(queries)))
        harmful = gather(step.features(step.parameters, rows_of(step.harmful, slice(SPECTRUM_OF))))
        return {
            "ignorance": self.lambda_harmful * part_with_slopes(value, unit_slopes(slopes), step.parameters),
            **self._condition(primary, harmful),
        }

    def _next(self, step: StepView, n_classes: int) -> FineTuner:
        """Whose turn it is, born now if nobody lives there or a class has come that its head does not have."""
        self._n_classes = max(self._n_classes, n_classes, 2)
        place = self._turn % self.attackers
        self._turn += 1
        found = self._living.get(place)
        if found is None or found.age >= found.traits.life or found.n_classes < self._n_classes:
            traits = Traits.drawn(step.run_seed + self._born, self.lives)
            found = self._living[place] = FineTuner(traits, step, self._n_classes)
            self._born += 1
        return found

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Objective.state_dict`."""
        living = (
            self._loaded
            if self._loaded is not None
            else {place: one.state_dict() for place, one in self._living.items()}
        )
        return {"living": living, "turn": self._turn, "born": self._born, "n_classes": self._n_classes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Objective.load_state_dict`."""
        # Attackers are made at the next step, which knows the model.
        self._loaded = state["living"]
        self._turn, self._born, self._n_classes = state["turn"], state["born"], state["n_classes"]
