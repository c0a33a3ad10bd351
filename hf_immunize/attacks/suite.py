"""One call: many attackers on many models, each measured alike, and the report of the worst case."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from hf_immunize.attacks.attacker import Attacker, choose_attackers
from hf_immunize.attacks.exact import exact_steps
from hf_immunize.attacks.harness import VALIDATION_SHARE, Budgets, Draw, Outcome, judge
from hf_immunize.attacks.report import MODELS, AttackReport, summarise
from hf_immunize.attacks.scratch import random_weights
from hf_immunize.attacks.self_check import self_check
from hf_immunize.attacks.subject import KeptImages, Subject
from hf_immunize.data import as_inputs, collate_images
from hf_immunize.evaluation import Extracted

__all__ = ["CARD_BUDGETS", "attack_features", "compare_features", "run_attacks"]

#: Attacker, model, samples a class, steps → one outcome a seed.
Outcomes = dict[tuple[str, str, int | None, int], list[Outcome]]
#: What a card's attackers may spend: a minute or two for a few thousand images.
CARD_BUDGETS = Budgets(samples=(None,), steps=(10, 30, 100, 300))
#: Images from which the BatchNorm statistics of random weights are taken.
SCRATCH_IMAGES = 256


def run_attacks(
    model: nn.Module,
    base_model: nn.Module,
    train: Any,
    test: Any,
    *,
    control: nn.Module | None = None,
    primary: Any = None,
    benign_train: Any = None,
    benign_test: Any = None,
    image_processor: Any = None,
    attackers: str | Sequence[str] = "probes",
    budgets: Budgets | None = None,
    scratch: bool = True,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> AttackReport:
    """Attacks a model, the model that it started from, a control and random weights, all in the same way.

    Args:
        model: the immunized classifier, θᴵ.
        base_model: θ0.
        train: harmful images with labels, to attack with; a fifth is what an attacker chooses by.
        test: harmful images with labels, to judge by.
        control: a model of the same training with λ = 0.
        primary: primary images with labels, for the attacker that trains on them first; it is left out without them.
        benign_train: images with labels of a task that training never saw; the probes are run on it too.
        benign_test: likewise, to judge by.
        image_processor: needed for raw images.
        attackers: ``"probes"``, ``"finetuning"``, ``"all"``, or names of :data:`hf_immunize.attacks.ATTACKERS`.
        budgets: samples, steps and seeds.
        scratch: also attack the same architecture with random weights, the reference of a recovery.
        batch_size: of the forward passes.
        device: where the models run; their own if not given.
        progress: show progress bars.

    Raises:
        ValueError: data without labels or rows, a single class, test classes unknown in training, features that are
            not finite, an unknown attacker.
        ModuleNotFoundError: an attacker's package is not installed.
        BrokenAttackerError: an attacker that fails the self-check.
    """
    chosen = choose_attackers(attackers)
    notes = []
    if primary is None and any(one.needs_primary for one in chosen):
        left_out = [one.name for one in chosen if one.needs_primary]
        chosen = [one for one in chosen if not one.needs_primary]
        notes.append(f"Without primary images these attackers were left out: {', '.join(left_out)}.")
        if not chosen:
            raise ValueError(f"The attacker {left_out[0]!r} needs primary images with labels. Pass them (primary=…).")
    sets = {
        role: KeptImages(as_inputs(data, image_processor))
        for role, data in (("train", train), ("test", test), ("primary", primary))
        if data is not None
    }
    for role in ("train", "test"):
        _check_labelled(sets[role], f"harmful {role}")
    models = {"initial": base_model, "immunized": model} | ({} if control is None else {"control": control})
    if scratch:
        few = range(min(SCRATCH_IMAGES, len(sets["train"])))
        where = next(base_model.parameters()).device
        batches = [
            {
                name: value.to(where)
                for name, value in collate_images(
                    [sets["train"][index] for index in few[start : start + batch_size]]
                ).items()
            }
            for start in few[::batch_size]
        ]
        models["scratch"] = random_weights(base_model, [one for one in batches if len(one["labels"]) > 1])
    settings = {"batch_size": batch_size, "device": device}
    subjects = {
        name: Subject(one, sets, progress=f"{name} model" if progress else None, **settings)
        for name, one in models.items()
    }
    benign = None
    if (benign_train is None) != (benign_test is None):
        raise ValueError("A benign task needs both benign_train and benign_test: to fit on, and to judge by.")
    if benign_train is not None:
        parts = {"train": benign_train, "test": benign_test}
        benign_sets = {role: KeptImages(as_inputs(data, image_processor)) for role, data in parts.items()}
        benign = {name: Subject(one, benign_sets, **settings) for name, one in models.items()}
    return _attack(subjects, ("immunized",), benign, chosen, budgets or Budgets(), notes, progress)["immunized"]


def attack_features(
    extracted: Mapping[str, Mapping[str, Extracted]],
    *,
    benign: Mapping[str, Mapping[str, Extracted]] | None = None,
    attackers: str | Sequence[str] = "probes",
    budgets: Budgets | None = None,
    progress: bool = False,
) -> AttackReport:
    """The probes on features already extracted: model → ``train`` and ``test`` → features and labels.

    Args:
        extracted: of the harmful task, for ``initial``, ``immunized`` and perhaps ``control`` and ``scratch``.
        benign: of a benign task, likewise.
        attackers: probes only.
        budgets: samples, steps and seeds.
        progress: show progress bars.
    """
    return compare_features(
        extracted, ("immunized",), benign=benign, attackers=attackers, budgets=budgets, progress=progress
    )["immunized"]


def compare_features(
    extracted: Mapping[str, Mapping[str, Extracted]],
    methods: Sequence[str],
    *,
    benign: Mapping[str, Mapping[str, Extracted]] | None = None,
    attackers: str | Sequence[str] = "probes",
    budgets: Budgets | None = None,
    progress: bool = False,
) -> dict[str, AttackReport]:
    """:func:`attack_features` for several immunized models beside the same θ0, control and random weights.

    Args:
        extracted: as there, and further models under any name.
        methods: names in ``extracted``; each in turn is the immunized model of a report. Every model is attacked once.
        benign: of a benign task, for the same models.
        attackers: probes only.
        budgets: samples, steps and seeds.
        progress: show progress bars.
    """
    chosen = choose_attackers(attackers)
    wrong = [one.name for one in chosen if one.kind != "probe"]
    if wrong:
        raise ValueError(f"On features alone only probes can run, got {', '.join(wrong)}. Use run_attacks.")
    subjects = {name: Subject.of_features(one) for name, one in extracted.items()}
    beside = None if benign is None else {name: Subject.of_features(one) for name, one in benign.items()}
    return _attack(subjects, methods, beside, chosen, budgets or Budgets(), [], progress)


def _attack(
    subjects: Mapping[str, Subject],
    methods: Sequence[str],
    benign: Mapping[str, Subject] | None,
    attackers: Sequence[Attacker],
    budgets: Budgets,
    notes: list[str],
    progress: bool,
) -> dict[str, AttackReport]:
    """Attacks every model once; a report for each method, which stands there as the immunized model."""
    self_check(attackers)
    labels = {split: _labels(subjects, split) for split in ("train", "test")}
    n_classes = _check_classes(labels["train"], labels["test"])
    counts = torch.bincount(labels["train"])
    wanted = [count for one in attackers for count in budgets.of(one)[0] if count is not None]
    if wanted and max(wanted) > (1 - VALIDATION_SHARE) * int(counts.min()):
        notes.append(
            f"The smallest class has {int(counts.min())} training images, validation among them: budgets above that "
            "took what there is."
        )
    outcomes: Outcomes = {}
    for name, subject in subjects.items():
        label = f"attacks on the {name} model" if progress else None
        outcomes |= _outcomes(attackers, name, subject, labels, n_classes, budgets, label)
    found: Outcomes = {}
    if benign is not None:
        known = {split: _labels(benign, split) for split in ("train", "test")}
        classes = _check_classes(known["train"], known["test"])
        last = Budgets(budgets.samples[-1:], budgets.steps[-1:], seeds=budgets.seeds)
        probes = _strongest_probes(outcomes, attackers, last)
        for name, subject in benign.items():
            label = f"benign task on the {name} model" if progress else None
            found |= _outcomes(probes, name, subject, known, classes, last, label)
    exact = {}
    if any(one.kind == "probe" for one in attackers):
        exact = {
            name: exact_steps(one.features["train"].features, labels["train"], n_classes)
            for name, one in subjects.items()
        }
    test_counts = torch.bincount(labels["test"])
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
        )
        for method in methods
    }


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
    subject: Subject,
    labels: Mapping[str, torch.Tensor],
    n_classes: int,
    budgets: Budgets,
    progress: str | None,
) -> Outcomes:
    """Every attacker on one model. Attackers of a view share each draw, and what they work out from it."""
    found: Outcomes = {}
    #: What costly attackers chose with the first seed.
    chosen: dict[tuple[str, int | None], frozenset[str]] = {}
    views = list(dict.fromkeys((one.view, *budgets.of(one)) for one in attackers))
    jobs = [(view, steps, count, seed) for view, samples, steps in views for count in samples for seed in budgets.seeds]
    for view, steps, count, seed in tqdm(jobs, desc=progress, disable=progress is None, leave=False):
        material = subject.material(view)
        if view == "features":
            _check_finite(name, material.rows)
        draw = Draw.of(material, view, labels["train"], per_class=count, seed=seed)
        for one in attackers:
            if one.view != view:
                continue
            settings = chosen.get((one.name, count))
            by_steps = judge(one, draw, material, labels["test"], n_classes, steps=steps, seed=seed, settings=settings)
            if one.kind == "fine-tuning" and settings is None:
                chosen[one.name, count] = frozenset(outcome.setting for outcome in by_steps.values())
            for step, outcome in by_steps.items():
                found.setdefault((one.name, name, count, step), []).append(outcome)
    return found


def _strongest_probes(outcomes: Outcomes, attackers: Sequence[Attacker], last: Budgets) -> list[Attacker]:
    """The probes that are the strongest on some model at the largest budget: the benign task is probed with them."""
    (count,), (step,) = last.samples, last.steps
    models = {key[1] for key in outcomes}
    probes = [one for one in attackers if one.kind == "probe"]

    def accuracy(attacker: Attacker, model: str) -> float:
        return sum(float(one.correct.double().mean()) for one in outcomes[attacker.name, model, count, step])

    best = (
        {max(probes, key=lambda one, model=model: accuracy(one, model)).name for model in models} if probes else set()
    )
    return [one for one in probes if one.name in best]


def _check_labelled(data: Any, name: str) -> None:
    if len(data) == 0:
        raise ValueError(f"The {name} data are empty. Check the split and its filters.")
    if "labels" not in collate_images([data[0]]):
        raise ValueError(
            f"The {name} images have no labels. Training needs none, but an attacker fits the harmful task and does: "
            "name the column of labels, or add one."
        )


def _labels(subjects: Mapping[str, Subject], split: str) -> torch.Tensor:
    labels = next(iter(subjects.values())).features[split].labels
    if labels is None:
        raise ValueError(
            f"The {split} images have no labels. Training needs none, but an attacker fits the task and does."
        )
    return labels


def _check_classes(train: torch.Tensor, test: torch.Tensor) -> int:
    known, asked = set(train.tolist()), set(test.tolist())
    if len(known) < 2:
        raise ValueError(f"An attacker needs two classes or more to tell apart, the training rows have {len(known)}.")
    if min(known | asked) < 0:
        raise ValueError("Labels must be counted from 0; a negative one was given.")
    if asked - known:
        raise ValueError(
            f"The test rows have the classes {sorted(asked - known)}, of which the training rows have none. Split the "
            "same classes into both."
        )
    return max(known) + 1


def _check_finite(name: str, rows: Mapping[str, torch.Tensor]) -> None:
    for split, features in rows.items():
        bad = int((~torch.isfinite(features)).any(1).sum())
        if bad:
            raise ValueError(
                f"{bad} of {len(features)} {split} feature rows of the {name} model hold NaN or infinite values. Run "
                "it in float32 or float64."
            )
