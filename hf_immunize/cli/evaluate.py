"""``hf-immunize evaluate``: RIR_θ0 and primary accuracy of a model against the model that it started from."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch

from hf_immunize.cli.config import parse
from hf_immunize.cli.options import EvaluateOptions, HubCallOptions, ReadOptions, most_of, named_rows, task_options
from hf_immunize.cli.pair import reader_of, say_if_beside_itself
from hf_immunize.cli.parser import VerbParser
from hf_immunize.cli.printing import required, say, stdout_for_results
from hf_immunize.data.task import load_evaluation
from hf_immunize.metrics.evaluation import MOST_MEASURED, evaluate_immunization
from hf_immunize.metrics.report import Protocol
from hf_immunize.models.loading import load_model

__all__ = ["parser", "run"]

TASKS = {"primary": "The task to keep", "harmful": "The task that was made slow"}


def parser() -> VerbParser:
    """The options of the verb."""
    data = (task_options(task, what, training=False) for task, what in TASKS.items())
    return VerbParser(
        "evaluate",
        [*data, EvaluateOptions, ReadOptions, HubCallOptions],
        "RIR_θ0 in both protocols and primary accuracy. Attackers: hf-immunize attack.",
        positional=("model", "the immunized model: Hub id (with @revision) or folder"),
    )


def run(given: Sequence[str], command: str) -> int:
    """Measures as the options say, and prints the figures."""
    options = parse(parser(), given)
    required("evaluate", options, "model", "base", "primary", "harmful")
    say_if_beside_itself(options)
    most = most_of(options, MOST_MEASURED)
    loading = {"token": options.token, "trust_remote_code": options.trust_remote_code}
    with stdout_for_results(options.json):
        model, base = load_model(options.model, **loading), load_model(options.base, **loading)
        reader = reader_of(model, base)
        sets, taken = {}, {}
        for task in TASKS:
            rows = load_evaluation(
                getattr(options, task),
                **named_rows(options, task),
                labels="optional" if task == "primary" else "unused",
                max_samples=most if options.streaming else None,
                seed=options.seed,
                token=options.token,
            )
            taken[task] = {"data": rows.name, "split": rows.eval_split, "rows": len(rows.evaluation)}
            say([f"{task}: {rows.name}, measured on {rows.eval_split} ({len(rows.evaluation)} rows)", *rows.notes])
            sets[task] = rows.inputs(reader.image_processor, n_channels=reader.n_channels, name=task)[1]
        report = evaluate_immunization(
            model.model,
            base.model,
            sets["primary"],
            sets["harmful"],
            protocol=Protocol(options.groups, options.group_size, options.seed),
            batch_size=options.batch_size,
            max_samples=most,
            device="cuda" if torch.cuda.is_available() else None,
            progress=not options.json,
        )
    if options.json:
        values = {"rir": report.to_dict(), "primary_accuracy": report.primary_accuracy, "data": taken}
        print(json.dumps(values, indent=2, sort_keys=True))
        return 0
    print(report)
    for name, accuracy in report.primary_accuracy.items():
        print(f"primary accuracy, {name}: {100 * accuracy:.1f} %")
    return 0
