"""The runs of the deep stand-ins: each a call of `hf_immunize.immunize` from one θ0, and the attackers on them."""

from __future__ import annotations

import copy
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from paper.deep_setups import QUIET, Start, first, start
from safetensors.torch import load_file, save_file
from torch import nn

from hf_immunize.attacks import Budgets
from hf_immunize.attacks.subject import Subject
from hf_immunize.attacks.suite import AttackSuite
from hf_immunize.models.extraction import Extracted
from hf_immunize.release.measure import measure
from hf_immunize.training.arguments import ImmunizationArguments
from hf_immunize.training.immunize import immunize

__all__ = ["METHODS", "SEARCH", "STEPS", "Pair", "attack_pair", "attempt", "begin_pair", "recipe"]

#: The defaults of `ImmunizationArguments`, written out so that the reproduction stays what it is.
OURS: dict[str, Any] = {
    "objective": "condition",
    "lambda_primary": 1.0,
    "lambda_harmful": 0.3,
    "scale_free": True,
    "learning_rate": 5e-4,
    "optim": "adamw_torch",
    "per_device_train_batch_size": 64,
    "max_grad_norm": 1.0,
    "label_smoothing_factor": 0.0,
}
STEPS, WARMUP_SHARE = 300, 0.1
#: What a method changes of them; the control is `ImmunizationArguments.as_control`, and init is θ0 as it is.
METHODS: dict[str, dict[str, Any]] = {
    "control": {},
    "r_ill_only": {"objective": "r_ill_only"},
    "imma": {"objective": "imma"},
    "opt_kappa": {"objective": "opt_kappa"},
    "opt_log_kappa": {"objective": "opt_log_kappa", "lambda_primary": 0.1, "lambda_harmful": 0.1},
    "condition_raw": {"scale_free": False},
    "condition": {},
}
#: λ_P, λ_H searched with seed 0 for the methods whose weights are no pure numbers or were given none here; the raw
#: form over the span of the paper's own configurations.
SEARCH: dict[str, list[tuple[float, float]]] = {
    "imma": [(0.0, 0.3), (0.0, 1.0)],
    "opt_kappa": [(1e-4, 1e-4), (1e-7, 1e-7)],
    "condition_raw": [(1e-6, 1e6), (1e-4, 1e6), (1e-4, 1e8)],
}


#: What the attackers of a model of seed 0 may spend, the images of a task that they have, and those that judge them.
ATTACK_BUDGETS, N_ATTACK, N_JUDGE = Budgets(samples=(10, None), steps=(10, 30, 100, 300)), 1_000, 500
#: Names under which a record of this script has arguments of the training.
RECORDED = {"per_device_train_batch_size": "batch_size", "label_smoothing_factor": "label_smoothing"}
#: Backbone and task.
Pair = tuple[str, str]


def arguments(
    method: str, seed: int, index: int | None = None, steps: int = STEPS, output_dir: str = ""
) -> ImmunizationArguments:
    """A method's arguments; ``index`` chooses among the weights that are searched."""
    changes = dict(METHODS[method])
    if index is not None:
        changes["lambda_primary"], changes["lambda_harmful"] = SEARCH[method][index]
    warmup = round(WARMUP_SHARE * steps)
    own = {"max_steps": steps, "warmup_steps": warmup, "seed": seed}
    args = ImmunizationArguments(output_dir, **(OURS | QUIET | own | changes))
    return args.as_control() if method == "control" else args


def recipe(method: str, seed: int, index: int | None = None, steps: int = STEPS) -> dict[str, Any] | None:
    """What a row says about how it was made: the numbers that decide it."""
    if method == "init":
        return None
    args = arguments(method, seed, index, steps)
    values = {RECORDED.get(name, name): getattr(args, name) for name in OURS}
    optimizer = str(getattr(args.optim, "value", args.optim))
    return values | {"optim": optimizer, "seed": seed, "steps": steps, "warmup_steps": args.get_warmup_steps(steps)}


def run(begin: Start, method: str, seed: int, index: int | None, steps: int, weights: Path | None) -> dict[str, Any]:
    """One method with one seed: trains from θ0, and measures beside θ0."""
    tasks = {task: begin.data[task] for task in ("primary", "harmful")}
    began = time.perf_counter()
    if method == "init":
        model = begin.model
        both = {"initial": model, "immunized": model}
        results = measure(both, tasks, attackers=None, activations=begin.activations)
    else:
        with tempfile.TemporaryDirectory() as folder:
            finished = immunize(
                copy.deepcopy(begin.model),
                **tasks,
                args=arguments(method, seed, index, steps, folder),
                control=False,
                attackers=None,
                activations=begin.activations,
            )
        assert finished is not None
        model, results = finished.model, finished.results
        if weights is not None:
            weights.parent.mkdir(parents=True, exist_ok=True)
            trained = {name: one.detach().contiguous() for name, one in model.named_parameters() if one.requires_grad}
            save_file(trained, weights)
    row = {
        "recipe": recipe(method, seed, index, steps),
        "seconds": round(time.perf_counter() - began, 1),
        "primary_accuracy": results["primary_accuracy"]["immunized"],
        "initial_primary_accuracy": results["primary_accuracy"]["initial"],
        "rir": results["rir"]["immunized"],
    }
    if seed == 0:
        row["fine_tuning"] = {task: fine_tune(*features(begin, model, task)) for task in ("harmful", "benign")}
    return row


def features(begin: Start, model: nn.Module, task: str) -> tuple[Extracted, Extracted]:
    """Features of a task's training and evaluation images, from θ0's activations."""
    sets = dict(zip(("train", "test"), begin.data[task], strict=True))
    zero = Subject(begin.model, sets, activations=begin.activations)
    own = Subject(model, sets, activations=begin.activations, peers=[zero])
    return own.extracted("train"), own.extracted("test")


def fine_tune(train: Extracted, test: Extracted, epochs: int = 6) -> list[float]:
    """Test accuracy after each epoch of fitting a new head by SGD on frozen features (paper, last figure)."""
    assert train.labels is not None
    rows_of = train.features.float()
    head = nn.Linear(rows_of.shape[1], int(train.labels.max()) + 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    generator = torch.Generator().manual_seed(0)
    curve = []
    for _ in range(epochs):
        for rows in torch.randperm(len(rows_of), generator=generator).split(64):
            optimizer.zero_grad()
            F.cross_entropy(head(rows_of[rows]), train.labels[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            curve.append((head(test.features.float()).argmax(1) == test.labels).double().mean().item())
    return curve


def attack(begin: Start, weights: dict[str, Path], attackers: list[str]) -> dict[str, Any]:
    """Every attacker on θ0, random weights and every method's model of seed 0; a report for each method.

    Args:
        begin: θ0 and its data.
        weights: method → the weights of its run.
        attackers: names, or ``all``, ``probes``, ``finetuning``.
    """
    models = {"initial": begin.model}
    for method, file in weights.items():
        models[method] = copy.deepcopy(begin.model)
        models[method].load_state_dict(load_file(file), strict=False)
    few = {
        task: (first(train, N_ATTACK), first(evaluation, N_JUDGE)) for task, (train, evaluation) in begin.data.items()
    }
    suite = AttackSuite(
        models,
        *few["harmful"],
        primary=few["primary"][0],
        benign_train=few["benign"][0],
        benign_test=few["benign"][1],
        attackers=attackers,
        budgets=ATTACK_BUDGETS,
    )
    reports = suite.run(list(models))
    return {("init" if name == "initial" else name): _rounded(found.to_dict()) for name, found in reports.items()}


def _rounded(value: Any) -> Any:
    """The same values with four decimals: there are many of them."""
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value


def attempt(
    pair: Pair, data: Path, work: Path, method: str, seed: int, index: int | None, steps: int, weights: Path | None
) -> dict[str, Any]:
    """A run, or why it stopped: a method that diverges is a result too."""
    try:
        return run(start(*pair, data, work), method, seed, index, steps, weights)
    except FloatingPointError as error:
        return {"stopped": str(error).split(";")[0], "recipe": recipe(method, seed, index, steps)}


def attack_pair(pair: Pair, data: Path, work: Path, weights: dict[str, Path], attackers: list[str]) -> dict[str, Any]:
    """As :func:`attack`, in a process of its own."""
    return attack(start(*pair, data, work), weights, attackers)


def begin_pair(pair: Pair, data: Path, work: Path) -> None:
    """Makes θ0 where it is not there."""
    start(*pair, data, work)
