"""The one path: a model and data sets → the immunized model, what was measured of it, and the record."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import set_seed
from transformers.trainer_utils import SaveStrategy
from transformers.utils import logging

from hf_immunize.attacks.attacker import choose_attackers, listed
from hf_immunize.attacks.judging import Budgets
from hf_immunize.attacks.suite import CARD_BUDGETS
from hf_immunize.data.class_order import in_one_order, names_of, numbered_alike
from hf_immunize.data.collate import collate_images
from hf_immunize.data.overlap import check_apart
from hf_immunize.data.streams import first_samples
from hf_immunize.errors import InputError, writing
from hf_immunize.models.activations import ActivationStore
from hf_immunize.models.class_names import in_order_of, name_classes
from hf_immunize.models.loaded import LoadedModel
from hf_immunize.models.rebuilding import check_rebuilds
from hf_immunize.release.folder import save_immunized
from hf_immunize.release.hub import push_to_hub
from hf_immunize.release.measure import measure
from hf_immunize.release.record import ImmunizationRecord
from hf_immunize.training.arguments import ImmunizationArguments
from hf_immunize.training.given import Data, check_head, loaded_data, loaded_model, measurable, model_inputs
from hf_immunize.training.locking import locked
from hf_immunize.training.primary_only import PRIMARY_ONLY_STEPS, check_ceiling_steps
from hf_immunize.training.recording import data_facts, input_shape, model_facts, steps_made, training_facts
from hf_immunize.training.stages import check_stages, kept_results, measured_folder, train_all

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

__all__ = ["Immunization", "immunize"]

logger = logging.get_logger(__name__)


@dataclass
class Immunization:
    """What :func:`immunize` returns.

    Attributes:
        model: the immunized classifier, θᴵ, in evaluation mode.
        initial: θ0, from which the immunization started.
        control: the same steps with λ = 0; None where it was not trained.
        ceilings: what an attacker has without the release, as far as it was measured: ``primary_only`` and, where θ0
            was fitted from other weights, ``public``.
        record: everything needed to repeat the run, and the results.
        image_processor: what prepares images for the model.
        notes: what was chosen for the user, in sentences.
    """

    model: nn.Module = field(repr=False)
    initial: nn.Module = field(repr=False)
    control: nn.Module | None = field(repr=False)
    record: ImmunizationRecord
    image_processor: Callable[..., Any] | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()
    ceilings: dict[str, nn.Module] = field(default_factory=dict, repr=False)

    @property
    def results(self) -> dict[str, Any]:
        """``primary_accuracy``, ``rir``, ``spectra`` and ``attacks``, as the record has them."""
        return self.record.results

    @property
    def verdict(self) -> str:
        """What the attackers came to, in words."""
        return self.results["attacks"]["verdict"]["text"] if "attacks" in self.results else "No attacker was run."

    def save(
        self, folder: str | os.PathLike[str], *, keep: Sequence[str] | None = None, overwrite: bool = False
    ) -> Path:
        """Writes the release, and the models that its claims are relative to.

        Args:
            folder: where to; made whole or not at all.
            keep: which of ``initial``, ``control`` and the ceilings ``primary_only`` and ``public`` stand beside the
                weights, in folders of these names. If not given, θ0 where it is no commit on the Hub that anybody
                could fetch.
            overwrite: replace what an earlier run wrote there.
        """
        kept = self._beside(keep)
        return save_immunized(folder, self.model, self.record, self.image_processor, overwrite=overwrite, beside=kept)

    def push_to_hub(self, repo_id: str, *, keep: Sequence[str] | None = None, **options: Any) -> CommitInfo:
        """Uploads the release in one commit, with the models beside it that :meth:`save` would keep.

        Further options are those of :func:`hf_immunize.push_to_hub`.
        """
        facts: dict[str, Any] = {"record": self.record, "image_processor": self.image_processor}
        return push_to_hub(self.model, repo_id, **facts, beside=self._beside(keep), **options)

    def _beside(self, keep: Sequence[str] | None) -> dict[str, nn.Module]:
        found = {"initial": self.initial, **self.ceilings} | ({} if self.control is None else {"control": self.control})
        by_default = [] if self.record.on_the_hub("initial") else ["initial"]
        wanted = by_default if keep is None else list(keep)
        for name in wanted:
            if name not in found:
                raise InputError(f"There is no {name!r} to keep: this run has {listed(list(found))}.")
        return {name: found[name] for name in wanted}


def immunize(
    model: str | os.PathLike[str] | nn.Module | LoadedModel,
    primary: Data,
    harmful: Data,
    args: ImmunizationArguments | None = None,
    *,
    benign: Data | None = None,
    image_processor: Callable[..., Any] | None = None,
    new_head: bool = False,
    fit_steps: int = 0,
    fit_learning_rate: float | None = None,
    control: bool = True,
    attackers: str | Sequence[str] | None = "probes",
    budgets: Budgets = CARD_BUDGETS,
    ceilings: bool | None = None,
    ceiling_steps: int = PRIMARY_ONLY_STEPS,
    token: str | bool | None = None,
    trust_remote_code: bool = False,
    command: str | None = None,
    known: Mapping[str, Any] | None = None,
    activations: ActivationStore | None = None,
) -> Immunization | None:
    """Immunizes a classifier, trains the control, measures and attacks all of them, and makes the record.

    Loads what is named, chooses what trains, runs the frozen part once, fits where asked, trains, trains the control,
    measures everything once. With ``push_to_hub`` in ``args`` the release goes up at the end. The quickstart,
    ``hf-immunize train`` and the reproductions are calls of it.

    Args:
        model: a Hub id (with ``@revision``), a timm name, a folder, or a classifier. A module is trained in place, a
            :class:`hf_immunize.LoadedModel` stays as it is.
        primary: the task to keep: a name, rows of `datasets`, a pair (to train on, to measure on), or what
            :func:`hf_immunize.load_task` returned.
        harmful: the task to make slow; labels are needed by attackers and where the objective ``needs_harmful_labels``.
        args: of the training; 300 steps with the defaults, and no checkpoints, if not given.
        benign: a task that training does not see, to measure what the immunization costs there.
        image_processor: of a module with raw images.
        new_head: give the model a new head for the primary classes; one without a head gets one on its pooled output.
        fit_steps: steps of plain fitting of the primary task first; θ0 is what comes out.
        fit_learning_rate: of that fit, without warm-up; that of ``args`` if not given.
        control: train the same steps with λ = 0 too, for comparison.
        attackers: as in :func:`hf_immunize.run_attacks`; None for none.
        budgets: what they may spend.
        ceilings: train a network of the primary task alone, from random weights, and attack it and, with
            ``fit_steps``, the model before the fit (the public weights) likewise: uplift is counted over the largest.
            If not given, where an attacker fine-tunes. Random weights are attacked in any case.
        ceiling_steps: of that training: all weights, AdamW, a cosine schedule from 1e-3.
        token: of the Hub.
        trust_remote_code: run a model's own code from the Hub; only for code that you have read.
        command: the command line that repeats the run, for the record.
        known: fields of :class:`hf_immunize.ImmunizationRecord` that cannot be found out (``license``, …).
        activations: those of earlier calls with the same data objects, so that a frozen part that is the same runs no
            second time; for many runs from one θ0.

    Returns:
        models, results and record; None on the processes that only help (under torchrun).

    Raises:
        InputError: what does not fit together, said before any training.
        MissingPackageError: an attacker's package is not installed.
        NonFiniteLossError: a loss or gradient that is no longer a finite number.

    Example:
        >>> run = immunize("google/vit-base-patch16-224", "me/birds", "me/faces")  # doctest: +SKIP
        >>> run.save("immunized-vit")  # doctest: +SKIP
    """
    started = time.perf_counter()
    check_ceiling_steps(ceiling_steps)
    if args is not None:
        check_stages(args, control or bool(fit_steps))
    if fit_learning_rate is not None and fit_steps < 1:
        raise InputError("fit_learning_rate is that of the fit before, and there is none. Give fit_steps too.")
    fine_tuned = attackers is not None and any(one.kind == "fine-tuning" for one in choose_attackers(attackers))
    if ceilings and attackers is None:
        raise InputError(
            "Ceilings are what attackers reach without the release. Choose attackers too, or ceilings=False."
        )
    with contextlib.ExitStack() as stack:
        if args is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            args = ImmunizationArguments(output_dir=folder, save_strategy="no")
        if args.should_save and args.save_strategy != SaveStrategy.NO:
            # From the first stage to the last.
            stack.enter_context(locked(Path(args.output_dir or ".")))
        given = {"primary": primary, "harmful": harmful} | ({} if benign is None else {"benign": benign})
        sources = {task: loaded_data(one, task, args, attackers is not None, token) for task, one in given.items()}
        # A new head is drawn here, and must be the same in every process and after a resume.
        set_seed(args.seed)
        base, processor = loaded_model(
            model, sources["primary"], image_processor, new_head, token=token, trust_remote_code=trust_remote_code
        )
        network = base.model if isinstance(base, LoadedModel) else base
        if (base.new_head if isinstance(base, LoadedModel) else new_head) and fit_steps < 1:
            raise InputError(
                "The head is new and would be measured untrained. Fit the primary task first: fit_steps=300 "
                "(--fit_steps 300), say."
            )
        data = {task: model_inputs(one, base, processor) for task, one in sources.items()}
        objective = args.made_objective()
        to_keep = in_order_of(network, data["primary"][0], "the primary data")
        measured_on = in_order_of(network, data["primary"][1], "the primary data to measure on", to_keep)
        data["primary"] = (to_keep, measured_on)
        slowed, judged = data["harmful"]
        if attackers is not None or objective.needs_harmful_labels:
            slowed, judged = (in_one_order(one, what="the harmful data") for one in (slowed, judged))
        judged = numbered_alike(judged, slowed, what="the harmful data to measure on", other="those to train on")
        data["harmful"] = (slowed, judged)
        shared = {task: check_apart(*pair, task) for task, pair in data.items()}
        check_head(network, data["primary"])
        check_rebuilds(network, processor)
        store = ActivationStore(args.cache_frozen_gb * 1e9) if activations is None else activations
        rate = args.learning_rate if fit_learning_rate is None else fit_learning_rate
        fit = {"steps": fit_steps, "learning_rate": rate, "warmup_steps": 0} if fit_steps else None
        origin = [base.name, base.revision] if isinstance(base, LoadedModel) else None
        # Of the weights as they are now.
        begins = model_facts(base)
        wanted = fine_tuned if ceilings is None else ceilings
        wanted = wanted and all("labels" in collate_images(first_samples(one, 1)) for one in data["harmful"])
        run, models, alone = train_all(
            network,
            data,
            args,
            image_processor=processor,
            fit=fit,
            control=control,
            ceiling_steps=ceiling_steps if wanted else None,
            activations=store,
            further_options={"fit": fit, "base_model": origin},
        )
        if not run.is_world_process_zero():
            return None
        measured = measurable(data, args)
        kept = measured_folder(args, models, measured, attackers, budgets)
        results = kept_results(kept) if args.resume_from_checkpoint else None
        if results is None:
            results = measure(
                models,
                measured,
                attackers=attackers,
                budgets=budgets,
                protocol=args.protocol,
                batch_size=args.per_device_eval_batch_size,
                device=args.device,
                activations=store,
                progress=not args.disable_tqdm,
            )
    notes = [f"{task}: {note}" for task, one in sources.items() for note in getattr(one, "notes", ())] + run.notes
    # Those of the other tasks are the Trainer's.
    notes += [f"benign: {shared['benign']}"] if shared.get("benign") else []
    classes = names_of(data["primary"][0])
    for one in models.values():
        name_classes(one, classes)
    if not (objective.uses_primary or objective.uses_harmful):
        notes.append("Both λ are 0: this is plain fine-tuning, and nothing was immunized.")
        logger.warning(notes[-1])
    made: dict[str, Any] = steps_made(args, run.state)
    facts = training_facts(args, run.selection, **made, fit=fit, seconds=run.seconds, notes=notes)
    if alone:
        facts["training"]["primary_only"] = alone | {"accuracy": results["primary_accuracy"]["primary_only"]}
    if run.budget is not None:
        facts["training"]["budget"] = run.budget.facts
    if not args.resume_from_checkpoint:
        facts["training"]["total_seconds"] = round(time.perf_counter() - started, 1)
    described = {task: data_facts(one) for task, one in sources.items()}
    if classes is not None:
        described["primary"].classes = list(classes)
    run_facts: dict[str, Any] = {"command": command, "results": results, "input_shape": input_shape(data["primary"][1])}
    record = ImmunizationRecord(**(begins | described | facts | run_facts | dict(known or {})))
    if kept is not None:
        with writing(kept, "Make room, and go on with resume_from_checkpoint: what was trained is kept."):
            record.save(kept)
        # As a later call will read them.
        record.results = ImmunizationRecord.load(kept).results
    for one in models.values():
        one.to("cpu")
    released = (models.pop("immunized"), models.pop("initial"), models.pop("control", None))
    finished = Immunization(*released, record, processor, tuple(notes), models)
    if args.push_to_hub:
        repo_id = args.hub_model_id or Path(args.output_dir or ".").absolute().name
        options: dict[str, Any] = {
            "private": args.hub_private_repo,
            "token": token or args.hub_token,
            "revision": args.hub_revision,
        }
        logger.warning(f"pushed: {finished.push_to_hub(repo_id, **options).commit_url}")
    return finished
