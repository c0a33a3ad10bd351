"""The attackers run: every one on every model at every budget and seed, and a report for each method."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

import torch
from tqdm.auto import tqdm

from hf_immunize.attacks.attacker import ATTACKERS, Attacker
from hf_immunize.attacks.checks import check_classes, check_finite
from hf_immunize.attacks.exact import exact_steps
from hf_immunize.attacks.flags import flags_of_model
from hf_immunize.attacks.judging import VALIDATION_SHARE, Budgets, Draw, Outcome, judge
from hf_immunize.attacks.report import CEILINGS, MODELS, AttackReport
from hf_immunize.attacks.self_check import self_check
from hf_immunize.attacks.subject import Redrawn, Subject
from hf_immunize.attacks.summary import summarise
from hf_immunize.data.collate import collate_images, on_device
from hf_immunize.data.random_numbers import undisturbed_random_numbers
from hf_immunize.errors import InputError

__all__ = ["attack_subjects"]

#: Attacker, model, samples a class, steps → one outcome a seed.
Outcomes = dict[tuple[str, str, int | None, int], list[Outcome]]
#: What the benign task is probed with where the harmful one is attacked by fine-tuning alone.
BENIGN_PROBES = ("ridge regression", "two-layer head")
#: Images on which a model is looked at for hidden gradients.
LOOKED_AT = 32


# Attackers and data loaders draw from the same generators as the caller.
@undisturbed_random_numbers()
def attack_subjects(
    subjects: Mapping[str, Subject | Redrawn],
    methods: Sequence[str],
    benign: Mapping[str, Subject | Redrawn] | None,
    attackers: Sequence[Attacker],
    budgets: Budgets,
    notes: list[str],
    progress: bool,
) -> dict[str, AttackReport]:
    """Attacks every model once; a report for each method, which stands there as the immunized model."""
    self_check(attackers)
    labels = _labels(subjects, budgets)
    n_classes = check_classes(labels["train"], labels["test"])
    counts = labels["train"].unique(return_counts=True)[1]
    wanted = [count for one in attackers for count in budgets.of(one)[0] if count is not None]
    if wanted and max(wanted) > (1 - VALIDATION_SHARE) * int(counts.min()):
        notes.append(
            f"The smallest class has {int(counts.min())} training images, validation among them: budgets above that "
            "took what there is."
        )
    if benign is not None:
        known = _labels(benign, budgets)
        classes = check_classes(known["train"], known["test"])
    outcomes: Outcomes = {}
    exact: dict[str, dict[float, int | None]] = {}
    seconds = {one.name: 0.0 for one in attackers}
    for name, subject in subjects.items():
        label = f"attacks on the {name} model" if progress else None
        outcomes |= _outcomes(attackers, name, subject, labels, n_classes, budgets, label, seconds)
        if any(one.kind == "probe" for one in attackers):
            # The last seed's, which is at hand.
            features = subject.at(budgets.seeds[-1]).extracted("train").features
            exact[name] = exact_steps(features, labels["train"], n_classes)
    found: Outcomes = {}
    if benign is not None:
        # The largest budgets; of fine-tuning one of fewer steps too.
        parts = budgets.samples[-1:], budgets.steps[-1:], budgets.finetune_samples[-1:], budgets.finetune_steps[-2:]
        last = Budgets(*parts, seeds=budgets.seeds)
        compared = [name for name in subjects if name not in CEILINGS]
        chosen = [ATTACKERS[name] for name in _strongest(outcomes, attackers, last, compared)]
        for name, subject in benign.items():
            label = f"benign task on the {name} model" if progress else None
            found |= _outcomes(chosen, name, subject, known, classes, last, label)
    test_counts = torch.bincount(labels["test"])
    flags = {
        method: _flags(subjects, method, budgets.seeds[0], n_classes)
        for method in methods
        if any(one.kind == "fine-tuning" for one in attackers)
    }
    return {
        method: summarise(
            _as_immunized(outcomes, method),
            attackers,
            budgets,
            benign=_as_immunized(found, method),
            exact={role: exact[name] for role, name in _roles(exact, method).items()},
            chance=float(test_counts.max().double() / test_counts.sum()),
            n_train=len(labels["train"]),
            n_test=len(labels["test"]),
            notes=notes,
            flags=flags.get(method),
            seconds={name: round(spent, 2) for name, spent in seconds.items()},
        )
        for method in methods
    }


def _flags(subjects: Mapping[str, Subject | Redrawn], method: str, seed: int, n_classes: int) -> dict[str, str]:
    model, base = (subjects[name].at(seed).material("images") for name in (method, "initial"))
    assert model.model is not None
    assert base.model is not None
    rows = model.rows["train"]
    picked = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:LOOKED_AT]
    copied = model.model()
    device = next(copied.parameters()).device
    batch = on_device(collate_images([rows[i] for i in picked.tolist()]), device)
    return flags_of_model(copied, base.model(), batch, n_classes)


def _roles(names: Iterable[str], method: str) -> dict[str, str]:
    """Role in a report → name of the model."""
    kept = {role: method if role == "immunized" else role for role in MODELS}
    return {role: name for role, name in kept.items() if name in names}


def _as_immunized(outcomes: Outcomes, method: str) -> Outcomes:
    roles = _roles({key[1] for key in outcomes}, method)
    return {
        (attacker, role, count, step): outcomes[attacker, name, count, step]
        for role, name in roles.items()
        for attacker, model, count, step in outcomes
        if model == name
    }


def _outcomes(
    attackers: Sequence[Attacker],
    name: str,
    subject: Subject | Redrawn,
    labels: Mapping[str, torch.Tensor],
    n_classes: int,
    budgets: Budgets,
    progress: str | None,
    seconds: dict[str, float] | None = None,
) -> Outcomes:
    """Every attacker on one model. Attackers of a view share each draw, and what they work out from it.

    What each of them takes is added to ``seconds``.
    """
    found: Outcomes = {}
    #: What costly attackers chose with the first seed.
    chosen: dict[tuple[str, int | None], dict[str, int]] = {}
    views = list(dict.fromkeys((one.view, *budgets.of(one)) for one in attackers))
    # Seed by seed, so that of a subject which is drawn anew one draw is there at a time.
    jobs = [(seed, view, steps, count) for seed in budgets.seeds for view, samples, steps in views for count in samples]
    for seed, view, steps, count in tqdm(jobs, desc=progress, disable=progress is None, leave=False):
        material = subject.at(seed).material(view)
        if view == "features":
            check_finite(name, material.rows)
        draw = Draw.of(material, view, labels["train"], per_class=count, seed=seed)
        for one in attackers:
            if one.view != view:
                continue
            start = time.perf_counter()
            settings = chosen.get((one.name, count))
            by_steps = judge(one, draw, material, labels["test"], n_classes, steps=steps, seed=seed, settings=settings)
            if one.kind == "fine-tuning" and settings is None:
                # Budgets ascend, so that the last one that chose a setting stays.
                chosen[one.name, count] = {outcome.setting: step for step, outcome in by_steps.items()}
            if seconds is not None:
                seconds[one.name] += time.perf_counter() - start
            for step, outcome in by_steps.items():
                found.setdefault((one.name, name, count, step), []).append(outcome)
        # Before the next seed's subject is made: what they hold of this one may be the largest thing in memory.
        del material, draw
    return found


def _strongest(outcomes: Outcomes, attackers: Sequence[Attacker], last: Budgets, models: Iterable[str]) -> list[str]:
    """Of each kind those that are the strongest on some model at the largest budget: they get the benign task."""
    found: dict[str, None] = {}
    probes = [one for one in attackers if one.kind == "probe"]
    for own in (probes, [one for one in attackers if one.kind != "probe"]):
        for model in models if own else ():
            (count,), steps = last.of(own[0])
            by_name = {one.name: outcomes[one.name, model, count, steps[-1]] for one in own}
            accuracy = {name: sum(fit.accuracy for fit in fits) for name, fits in by_name.items()}
            found[max(by_name, key=accuracy.__getitem__)] = None
    return [*(() if probes else BENIGN_PROBES), *found]


def _labels(subjects: Mapping[str, Subject | Redrawn], budgets: Budgets) -> dict[str, torch.Tensor]:
    """Split → labels, which are the same for every model."""
    subject = next(iter(subjects.values())).at(budgets.seeds[0])
    labels: dict[str, torch.Tensor] = {}
    for split in ("train", "test"):
        known = subject.extracted(split).labels
        if known is None:
            raise InputError(
                f"The {split} images have no labels. Training needs none, but an attacker fits the task and does."
            )
        labels[split] = known
    return labels
