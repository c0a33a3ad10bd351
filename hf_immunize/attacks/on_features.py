"""The probes on features that are there already."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from hf_immunize.attacks.attacker import choose_attackers, listed
from hf_immunize.attacks.engine import attack_subjects
from hf_immunize.attacks.judging import Budgets
from hf_immunize.attacks.report import AttackReport
from hf_immunize.attacks.subject import Redrawn, Subject
from hf_immunize.errors import InputError
from hf_immunize.models.extraction import Extracted

__all__ = ["Features", "attack_features"]

#: Of one model: ``train`` and ``test`` → features and labels; of random weights also from a seed to these.
Features = Mapping[str, Extracted] | Callable[[int], Mapping[str, Extracted]]


def attack_features(
    extracted: Mapping[str, Features],
    *,
    benign: Mapping[str, Features] | None = None,
    attackers: str | Sequence[str] = "probes",
    budgets: Budgets | None = None,
    progress: bool = False,
) -> AttackReport:
    """The probes on features already extracted: model → ``train`` and ``test`` → features and labels.

    Args:
        extracted: of the harmful task, for ``initial``, ``immunized`` and perhaps ``control``, ``primary_only``,
            ``public`` and ``scratch``, which may be a function from a seed to its features instead.
        benign: of a benign task, likewise.
        attackers: probes only.
        budgets: samples, steps and seeds.
        progress: show progress bars.
    """
    chosen = choose_attackers(attackers)
    wrong = [one.name for one in chosen if one.kind != "probe"]
    if wrong:
        raise InputError(f"On features alone only probes can run, got {listed(wrong)}. Use run_attacks.")

    def subject(one: Features) -> Subject | Redrawn:
        return Redrawn(lambda seed: Subject.of_features(one(seed))) if callable(one) else Subject.of_features(one)

    subjects = {name: subject(one) for name, one in extracted.items()}
    beside = None if benign is None else {name: subject(one) for name, one in benign.items()}
    return attack_subjects(subjects, ("immunized",), beside, chosen, budgets or Budgets(), [], progress)["immunized"]
