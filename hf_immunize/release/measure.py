"""The one measuring: models and data sets → the results of a record, features of each model and split made once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hf_immunize.attacks.judging import Budgets
from hf_immunize.attacks.report import CEILINGS
from hf_immunize.attacks.subject import Subject
from hf_immunize.attacks.suite import CARD_BUDGETS, MOST_ATTACKED, AttackSuite
from hf_immunize.data.collate import collate_images
from hf_immunize.data.overlap import check_apart
from hf_immunize.metrics.peers import Measured, Peers
from hf_immunize.metrics.report import Protocol, report_of
from hf_immunize.models.activations import ActivationStore
from hf_immunize.models.extraction import MapStyle
from hf_immunize.spectra.spectrum import Spectrum

__all__ = ["measure", "spectra_results"]

#: Longest list of eigenvalues that is kept of one spectrum: enough for a figure, small enough for a JSON file.
MAX_EIGENVALUES = 512


def measure(
    models: Mapping[str, nn.Module],
    data: Mapping[str, tuple[MapStyle | None, MapStyle]],
    *,
    attackers: str | Sequence[str] | None = "probes",
    budgets: Budgets = CARD_BUDGETS,
    protocol: Protocol | None = None,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    activations: ActivationStore | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Results in the form of a record: accuracy, RIR in both protocols, spectra, and the attackers.

    What the models share is run once. RIR is measured in float32, and again in float64 where a spectrum needs it, as
    :func:`hf_immunize.evaluate_immunization` does; attackers' features are in float64. Groups, attackers' draws and
    subsets are those of seed 0, whatever the training's seed, so that runs compare.

    Args:
        models: ``initial`` (θ0), ``immunized`` and, where there is one, ``control``; beside them ceilings that are
            attacked alone, ``primary_only`` (its primary accuracy is measured too) and ``public``.
        data: ``primary``, ``harmful`` and perhaps ``benign`` → training and evaluation data of model inputs. Attackers
            are fitted on the former and judged on the latter; the primary training data serve one attacker alone.
        attackers: as in :func:`hf_immunize.run_attacks`; None for none. They need harmful labels, and are left out
            without them.
        budgets: what attackers may spend.
        protocol: of RIR, 20 groups of 100 samples if not given.
        batch_size: of the forward passes.
        device: where copies of the models run; their own if not given.
        activations: of the same data, from a training.
        progress: show progress bars.

    Raises:
        InputError: training and evaluation rows that are the same, too few samples, labels that attackers cannot use.
    """
    for task, (train, evaluation) in data.items():
        check_apart(train, evaluation, task)
    protocol = protocol or Protocol()
    suite = None
    train, test = data["harmful"]
    if attackers is not None and train is not None and _labelled(train) and _labelled(test):
        fit_on, judge_by = data.get("benign", (None, None))
        suite = AttackSuite(
            models,
            train,
            test,
            primary=data["primary"][0],
            benign_train=fit_on,
            benign_test=judge_by,
            attackers=attackers,
            budgets=budgets,
            max_samples=MOST_ATTACKED,
            batch_size=batch_size,
            device=device,
            activations=activations,
            progress=progress,
        )

    released = {name: one for name, one in models.items() if name not in CEILINGS}

    def measured(task: str) -> dict[str, Measured]:
        evaluation = data[task][1]
        groups = protocol.indices(len(evaluation))
        if suite is not None and task == "harmful" and len(evaluation) <= MOST_ATTACKED:
            # Attackers have them in float64 already.
            return {name: Measured.of(suite.features(name).features, groups) for name in released}
        peers = Peers(
            released, evaluation, device=device, batch_size=batch_size, activations=activations, progress=progress
        )
        return peers.measured(evaluation, task, groups, None)

    tasks = {task: measured(task) for task in ("primary", "harmful")}
    reports = {name: report_of(tasks, protocol, model=name) for name in released if name != "initial"}
    accuracy = {name: tasks["primary"][name].accuracy for name in released}
    if "primary_only" in models:
        label = "primary_only model" if progress else None
        one = Subject(
            models["primary_only"],
            {"primary": data["primary"][1]},
            batch_size=batch_size,
            device=device,
            dtype=torch.float32,
            progress=label,
        )
        accuracy["primary_only"] = one.extracted("primary").accuracy
    whole = reports["immunized"].all_samples
    assert whole is not None, "rir_report measures all samples too"
    results: dict[str, Any] = {
        "primary_accuracy": {name: value for name, value in accuracy.items() if value is not None},
        "rir": {name: report.to_dict() for name, report in reports.items()},
        "spectra": spectra_results(
            initial_harmful=whole.initial_harmful,
            immunized_harmful=whole.immunized_harmful,
            initial_primary=whole.initial_primary,
            immunized_primary=whole.immunized_primary,
        ),
    }
    return results if suite is None else results | {"attacks": suite.run()["immunized"].to_dict()}


def spectra_results(**spectra: Spectrum) -> dict[str, Any]:
    """The ``spectra`` part of the results.

    Args:
        spectra: by name, ``initial_harmful``, ``immunized_harmful``, ``initial_primary``, ``immunized_primary``.

    Returns:
        for each name the eigenvalues over the largest, descending, at most 512 of them at even steps of the index
        (first and last always among them), to five digits; ``ranks`` says how many there were.
    """
    result: dict[str, Any] = {"ranks": {name: one.rank for name, one in spectra.items()}}
    for name, one in spectra.items():
        values = (one.eigenvalues.flip(0) / one.eigenvalues[-1]).tolist() if one.rank else []
        if len(values) > MAX_EIGENVALUES:
            step = (len(values) - 1) / (MAX_EIGENVALUES - 1)
            values = [values[round(i * step)] for i in range(MAX_EIGENVALUES)]
        result[name] = [float(f"{value:.5g}") for value in values]
    return result


def _labelled(data: Any) -> bool:
    return len(data) > 0 and "labels" in collate_images([data[0]])
