"""What an attacker is: a function from a task to fits, under a name in one registry.

An attacker sees training rows only. It yields each fit that it would consider; the suite answers with its accuracy on
validation rows, chooses by that, and reports on test rows, so that no attacker can choose by what it is judged with.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from hf_immunize.errors import InputError, MissingPackageError, did_you_mean

__all__ = [
    "ATTACKERS",
    "AttackTask",
    "Attacker",
    "Fit",
    "Fits",
    "View",
    "attacker",
    "attacker_choices",
    "choose_attackers",
    "listed",
    "probe_names",
]

T = TypeVar("T")
#: What an attacker works on: features of the frozen model, activations before its last stage, or images.
View = Literal["features", "tail", "images"]


@dataclass(frozen=True)
class AttackTask:
    """What an attacker is given.

    Attributes:
        rows: the training rows of its view: features (n, d), or a map-style data set of model inputs.
        labels: their classes, (n,), counted from 0.
        n_classes: of the harmful task.
        checkpoints: numbers of steps after which a fit is to be yielded, ascending; the last one ends the attack.
        seed: of everything random.
        model: for the views ``tail`` and ``images``, a function that gives a fresh copy to train.
        primary: for attackers that ask for it, primary training rows of the same view, with labels.
        settings: where not None, what the first seed chose: setting → the last budget of steps that chose it. A costly
            attacker tunes once.
        public: for attackers that ask for it, a function that gives a fresh copy of the public backbone; None on models
            that stand for what an attacker has without it.
        known: what attackers of the same rows and labels worked out of them; see :meth:`once`.
    """

    rows: Any
    labels: torch.Tensor
    n_classes: int
    checkpoints: tuple[int, ...]
    seed: int = 0
    model: Callable[[], nn.Module] | None = None
    primary: Any = None
    settings: Mapping[str, int] | None = None
    public: Callable[[], nn.Module] | None = None
    known: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What ``make`` returns, for the first attacker of these rows that asks for this name and for all after it.

        It must depend on rows, labels and classes alone.
        """
        if name not in self.known:
            self.known[name] = make()
        return self.known[name]


@dataclass(frozen=True)
class Fit:
    """One fitted classifier that the attacker could stop at.

    Attributes:
        setting: what tells it from the attacker's other fits, as text.
        steps: steps spent on it; 0 for a closed form.
        scores: from held-out rows of the same view to logits (m, classes); called before the attacker goes on.
    """

    setting: str
    steps: int
    scores: Callable[[Any], torch.Tensor]


#: An attack under way: fits go out, the validation accuracy of each comes back.
Fits = Generator[Fit, float, None]


@dataclass(frozen=True)
class Attacker:
    """A named attack; calling it yields its fits.

    Attributes:
        name: the key in :data:`ATTACKERS`.
        run: the attack.
        view: what it works on.
        needs_primary: whether it trains on primary data too.
        needs_public: whether it starts from the public backbone too.
        thorough: whether it belongs to the long search alone, the group ``thorough``.
        requires: a package that it needs, and the extra that brings it.
        description: the first line of its docstring.
        short: a name without spaces and commas, for the command line.
    """

    name: str
    run: Callable[[AttackTask], Fits] = field(repr=False)
    view: View = "features"
    needs_primary: bool = False
    needs_public: bool = False
    thorough: bool = False
    requires: tuple[str, str] | None = None
    description: str = ""
    short: str = ""

    @property
    def kind(self) -> Literal["probe", "fine-tuning"]:
        """``probe`` where the features stay as they are."""
        return "probe" if self.view == "features" else "fine-tuning"

    def __call__(self, task: AttackTask) -> Fits:
        return self.run(task)


#: Every attacker by its name, in the order of the tables.
ATTACKERS: dict[str, Attacker] = {}
#: Group → which attackers it holds.
_GROUPS: dict[str, Callable[[Attacker], bool]] = {
    "all": lambda one: not one.thorough,
    "probes": lambda one: one.kind == "probe",
    "finetuning": lambda one: one.kind == "fine-tuning" and not one.thorough,
    "thorough": lambda one: True,
}


def attacker(
    name: str,
    *,
    short: str | None = None,
    view: View = "features",
    needs_primary: bool = False,
    needs_public: bool = False,
    thorough: bool = False,
    requires: tuple[str, str] | None = None,
) -> Callable[[Callable[[AttackTask], Fits]], Attacker]:
    """Registers the decorated function as an attacker of that name; the same name again replaces it.

    Example:
        >>> @attacker("nearest class mean")
        ... def nearest_class_mean(task):
        ...     means = torch.stack([task.rows[task.labels == one].mean(0) for one in range(task.n_classes)])
        ...     yield Fit("", 0, lambda rows: -torch.cdist(rows, means))
        >>> ATTACKERS.pop("nearest class mean").kind
        'probe'
    """
    if view not in ("features", "tail", "images"):
        raise InputError(f"view must be 'features', 'tail' or 'images', got {view!r}.")

    def register(run: Callable[[AttackTask], Fits]) -> Attacker:
        text = (run.__doc__ or name).strip().splitlines()[0]
        brief = short or re.sub(r"\W+", "-", name.lower()).strip("-")
        ATTACKERS[name] = Attacker(
            name, run, view, needs_primary, needs_public, thorough, requires, description=text, short=brief
        )
        return ATTACKERS[name]

    return register


def probe_names() -> list[str]:
    """Names of the attackers that leave the features as they are."""
    return [name for name, one in ATTACKERS.items() if one.kind == "probe"]


def attacker_choices() -> list[str]:
    """What a command line may name: the groups, and every attacker by its short name."""
    order = sorted(ATTACKERS.values(), key=lambda one: one.kind != "probe")
    return [*_GROUPS, *(one.short for one in order)]


def listed(names: Iterable[str]) -> str:
    """Names of attackers in a sentence: they hold commas, so that semicolons stand between them."""
    return "; ".join(names)


def choose_attackers(names: str | Sequence[str]) -> list[Attacker]:
    """The attackers called by a group, or by a list of groups and names.

    ``"probes"`` leave the features as they are, ``"finetuning"`` are the five usual ways to fine-tune, ``"all"`` are
    both; ``"thorough"`` are these and the attackers of a long search, which takes several times as long.

    Raises:
        ValueError: an unknown name, with the nearest one, or none at all.
        ModuleNotFoundError: an attacker that was asked for by its name needs a package that is not installed; under
            a group too, since a suite without it would be weaker than it says.
    """
    given = [names] if isinstance(names, str) else list(names)
    groups = {group: [name for name, one in ATTACKERS.items() if holds(one)] for group, holds in _GROUPS.items()}
    known = ", ".join(attacker_choices())
    by_short = {one.short: name for name, one in ATTACKERS.items()}
    chosen: dict[str, Attacker] = {}
    for given_name in given:
        name = by_short.get(given_name, given_name)
        if name not in groups and name not in ATTACKERS:
            hint = did_you_mean(name, [*attacker_choices(), *ATTACKERS], cutoff=0.0)
            raise InputError(f"Unknown attacker {name!r}.{hint} Known: {known}.")
        chosen |= {one: ATTACKERS[one] for one in groups.get(name, [name])}
    if not chosen:
        raise InputError(f"No attacker was named. Choose 'all', 'probes', or some of: {known}.")
    for one in chosen.values():
        if one.requires and importlib.util.find_spec(one.requires[0]) is None:
            raise MissingPackageError(
                f"The attacker {one.name!r} needs {one.requires[0]}: pip install 'hf-immunize[{one.requires[1]}]', or "
                "choose attackers='probes'."
            )
    order = list(ATTACKERS)
    return sorted(chosen.values(), key=lambda one: (one.kind != "probe", order.index(one.name)))
