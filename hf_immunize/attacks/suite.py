"""One call: many attackers on many models, each measured alike, and the report of the worst case."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hf_immunize.attacks.attacker import choose_attackers, listed
from hf_immunize.attacks.checks import check_labelled, check_primary, check_weights
from hf_immunize.attacks.engine import attack_subjects
from hf_immunize.attacks.judging import Budgets
from hf_immunize.attacks.report import CEILINGS, AttackReport
from hf_immunize.attacks.subject import KeptImages, Redrawn, Subject
from hf_immunize.data.class_order import in_one_order, labels_of, numbered_alike
from hf_immunize.data.collate import collate_images, on_device
from hf_immunize.data.draw import at_most
from hf_immunize.data.inputs import as_inputs
from hf_immunize.data.overlap import check_apart
from hf_immunize.data.streams import DRAWN, first_samples
from hf_immunize.errors import InputError
from hf_immunize.models.activations import ActivationStore
from hf_immunize.models.class_names import in_order_of
from hf_immunize.models.copies import copied
from hf_immunize.models.extraction import Extracted, MapStyle, check_batch_size
from hf_immunize.models.forward import unwrap
from hf_immunize.models.random_weights import random_weights
from hf_immunize.models.repeatable import check_repeatable

__all__ = ["CARD_BUDGETS", "MOST_ATTACKED", "AttackSuite", "run_attacks"]

#: What a card's attackers may spend: a minute or two for a few thousand images.
CARD_BUDGETS = Budgets(samples=(10, None), steps=(10, 30, 100, 300))
#: Images of a split that attackers are given, if nothing else is said: more change little, and take long.
MOST_ATTACKED = 5_000
#: Images from which the BatchNorm statistics of random weights are taken.
SCRATCH_IMAGES = 256
#: In batches of this size, whatever the forward passes have: random weights are a reference.
SCRATCH_BATCH = 64


def run_attacks(
    model: nn.Module,
    base_model: nn.Module,
    train: MapStyle,
    test: MapStyle,
    *,
    control: nn.Module | None = None,
    primary_only: nn.Module | None = None,
    public: nn.Module | None = None,
    primary: MapStyle | None = None,
    benign_train: MapStyle | None = None,
    benign_test: MapStyle | None = None,
    image_processor: Callable[..., Any] | None = None,
    attackers: str | Sequence[str] = "probes",
    budgets: Budgets | None = None,
    scratch: bool = True,
    max_samples: int | None = MOST_ATTACKED,
    seed: int = 0,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> AttackReport:
    """Attacks a model, the model that it started from, a control, and what an attacker has anyway, all in the same way.

    Args:
        model: the immunized classifier, θᴵ.
        base_model: θ0.
        train: harmful images with labels, to attack with; a fifth is what an attacker chooses by.
        test: harmful images with labels, to judge by.
        control: a model of the same training with λ = 0.
        primary_only: a network of the primary task alone, trained from random weights. Like random weights and
            ``public`` it is a ceiling: what an attacker has without the release, over which uplift is counted.
        public: the public weights that θ0 descends from, of any architecture that reads the same inputs; without them
            the attacker that moves towards them is left out.
        primary: primary images with labels, for the attacker that trains on them first; it is left out without them.
        benign_train: images with labels of a task that training never saw; the strongest probes, and with fine-tuning
            attackers the strongest of those, are run on it too.
        benign_test: likewise, to judge by.
        image_processor: needed for raw images.
        attackers: ``"probes"``, ``"finetuning"``, ``"all"``, ``"thorough"``, or names of
            :data:`hf_immunize.attacks.ATTACKERS`.
        budgets: samples, steps and seeds.
        scratch: also attack the same architecture with random weights, drawn anew for every seed: the reference of a
            recovery, and a ceiling.
        max_samples: no more than these images of each split, drawn by ``seed``, which the report says; None for all.
        seed: of that draw alone; those of the attackers are in the budgets.
        batch_size: of the forward passes.
        device: where the models run; their own if not given.
        progress: show progress bars.

    Raises:
        ValueError: the same object as both models, data without labels or rows, a single class, test classes unknown
            in training, features that are not finite, an unknown attacker.
        ModuleNotFoundError: an attacker's package is not installed.
        BrokenAttackerError: an attacker that fails the self-check.
    """
    if unwrap(model) is unwrap(base_model):
        raise InputError("model and base_model are the same object, so that nothing would be compared. Load both.")
    beside = {"control": control, "primary_only": primary_only, "public": public}
    models = {"initial": base_model, "immunized": model} | {k: one for k, one in beside.items() if one is not None}
    suite = AttackSuite(
        models,
        train,
        test,
        primary=primary,
        benign_train=benign_train,
        benign_test=benign_test,
        image_processor=image_processor,
        attackers=attackers,
        budgets=budgets,
        scratch=scratch,
        max_samples=max_samples,
        seed=seed,
        batch_size=batch_size,
        device=device,
        progress=progress,
    )
    return suite.run()["immunized"]


class AttackSuite:
    """Models, data and attackers of one suite, checked before anything runs.

    Features of each model and split are extracted once, whoever asks for them first: the attackers, or a measurement
    beside them.

    Args:
        models: ``initial``, perhaps ``control``, ``primary_only`` and ``public``, and further models under any name.
        train: harmful images with labels, to attack with.
        test: likewise, to judge by.
        activations: of the same data, from a training.
        others: ``primary`` to ``progress`` as in :func:`run_attacks`, which says what is raised.
    """

    def __init__(
        self,
        models: Mapping[str, nn.Module],
        train: MapStyle,
        test: MapStyle,
        *,
        primary: MapStyle | None = None,
        benign_train: MapStyle | None = None,
        benign_test: MapStyle | None = None,
        image_processor: Callable[..., Any] | None = None,
        attackers: str | Sequence[str] = "probes",
        budgets: Budgets | None = None,
        scratch: bool = True,
        max_samples: int | None = MOST_ATTACKED,
        seed: int = 0,
        batch_size: int = 64,
        device: torch.device | str | None = None,
        progress: bool = False,
        activations: ActivationStore | None = None,
    ) -> None:
        check_batch_size(batch_size)
        self.attackers = choose_attackers(attackers)
        self.budgets, self.progress = budgets or Budgets(), progress
        self.notes: list[str] = []
        self._leave_out_without(primary, models.get("public"))
        if (benign_train is None) != (benign_test is None):
            raise InputError("A benign task needs both benign_train and benign_test: to fit on, and to judge by.")

        def kept(task: str, **data: MapStyle | None) -> dict[str, KeptImages]:
            given = {role: as_inputs(one, image_processor, most=DRAWN) for role, one in data.items() if one is not None}
            given = {role: in_one_order(one, what=f"the {task} {role} data") for role, one in given.items()}
            shared = check_apart(given["train"], given["test"], task)
            self.notes += [] if shared is None else [f"{task}: {shared}."]
            given["test"] = numbered_alike(
                given["test"], given["train"], what="the test data", other="the training data"
            )
            for role, one in given.items():
                if max_samples is not None and len(one) > max_samples:
                    what = role if role == "primary" else f"{task} {role}"
                    self.notes.append(f"Of {len(one):,} {what} images {max_samples:,} were drawn (max_samples).")
            # Of the rows that attackers are fitted on some of each class: they are judged by all of them.
            fitted = {"train": labels_of(given["train"])}
            return {role: KeptImages(at_most(one, max_samples, seed, fitted.get(role))) for role, one in given.items()}

        if primary is not None:
            primary = in_order_of(
                models["initial"], as_inputs(primary, image_processor, most=DRAWN), "the primary data"
            )
        sets = kept("harmful", train=train, test=test, primary=primary)
        for role in ("train", "test"):
            check_labelled(sets[role], f"harmful {role}")
        if any(one.needs_primary for one in self.attackers):
            check_primary(models.values(), sets["primary"])
        few = collate_images(first_samples(sets["train"], 2))
        for name, one in models.items():
            check_weights(name, one)
            check_repeatable(one, few)
        store = ActivationStore() if activations is None else activations
        common: dict[str, Any] = {"batch_size": batch_size, "device": device}

        def subjects(of: Mapping[str, KeptImages], task: str) -> dict[str, Subject | Redrawn]:
            def label(name: str) -> str | None:
                return f"{name} model, {task}" if progress else None

            peers: list[Subject] = []
            found = {}
            for name in sorted(models, key=lambda one: one != "initial"):
                # A ceiling hides nothing under float32's rounding.
                dtype = torch.float32 if name in CEILINGS else torch.float64
                options: dict[str, Any] = {
                    "activations": store,
                    "progress": label(name),
                    "peers": peers,
                    "dtype": dtype,
                    "public": None if name in CEILINGS else models.get("public"),
                }
                found[name] = Subject(models[name], of, **options, **common)
                peers.append(found[name])

            def random(seed: int) -> Subject:
                drawn = _scratch_of(models["initial"], sets["train"], seed)
                return Subject(drawn, of, dtype=torch.float32, progress=label("scratch"), **common)

            if not scratch:
                return dict(found)
            # Nothing is counted from random weights on a benign task, so that one draw will do there.
            return {**found, "scratch": Redrawn(random) if task == "harmful" else random(self.budgets.seeds[0])}

        self.subjects = subjects(sets, "harmful")
        self.benign: dict[str, Subject | Redrawn] | None = None
        if benign_train is not None:
            benign_sets = kept("benign", train=benign_train, test=benign_test)
            for role, images in benign_sets.items():
                check_labelled(images, f"benign {role}")
            # For the attacker that trains on the primary task first.
            shared = {role: one for role, one in sets.items() if role == "primary"}
            self.benign = subjects(benign_sets | shared, "benign")

    def features(self, model: str, split: str = "test") -> Extracted:
        """Features, logits and labels of the harmful images of a split under a model."""
        return self.subjects[model].at(self.budgets.seeds[0]).extracted(split)

    def run(self, methods: Sequence[str] = ("immunized",)) -> dict[str, AttackReport]:
        """Attacks every model once.

        Args:
            methods: names of models; each in turn is the immunized model of a report.

        Returns:
            method → its report.
        """
        return attack_subjects(
            self.subjects, methods, self.benign, self.attackers, self.budgets, self.notes, self.progress
        )

    def _leave_out_without(self, primary: MapStyle | None, public: nn.Module | None) -> None:
        for needs, given, what, remedy in (
            ("needs_primary", primary, "primary images", "primary images with labels. Pass them (primary=…)"),
            ("needs_public", public, "the public backbone", "the public backbone. Pass it (public=…)"),
        ):
            left_out = [one.name for one in self.attackers if getattr(one, needs) and given is None]
            if not left_out:
                continue
            self.attackers = [one for one in self.attackers if one.name not in left_out]
            self.notes.append(f"Without {what} these attackers were left out: {listed(left_out)}.")
            if not self.attackers:
                raise InputError(f"The attacker {left_out[0]!r} needs {remedy}.")


def _scratch_of(model: nn.Module, images: KeptImages, seed: int) -> nn.Module:
    """Random weights, with the BatchNorm statistics of the first images."""
    model = copied(model).float()
    where = next(model.parameters()).device
    few = range(min(SCRATCH_IMAGES, len(images)))
    batches = [
        collate_images([images[index] for index in few[start : start + SCRATCH_BATCH]])
        for start in few[::SCRATCH_BATCH]
    ]
    return random_weights(
        model,
        [on_device(batch, where) for batch in batches if len(batch["labels"]) > 1],
        seed,
    )
