"""The options that decide what a run becomes: carried by its checkpoints, and refused where they are others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import nn
from transformers.trainer_utils import SaveStrategy

from hf_immunize.data.random_numbers import undisturbed_random_numbers
from hf_immunize.data.streams import first_samples, is_stream
from hf_immunize.errors import InputError
from hf_immunize.training.arguments import ImmunizationArguments

__all__ = ["data_digest", "model_digest", "options_of", "refuse_others"]

#: Arguments, by how their names begin, that change no weight: where to, how much is said, how often is saved, how fast.
_HARMLESS = (
    *("output_dir", "log", "disable_tqdm", "report_to", "run_name", "project", "trackio_", "hub_", "push_to_hub"),
    *("save_", "dataloader_", "ddp_", "do_", "debug", "skip_memory_metrics", "local_rank", "use_cpu", "cache_frozen"),
    *("activation_checkpointing", "gradient_checkpointing", "torch_empty_cache_steps", "resume_from_checkpoint"),
    *("enable_jit_checkpoint", "restore_callback_states", "include_", "prediction_loss_only", "batch_eval_metrics"),
    *("per_device_eval_batch_size", "full_determinism"),
)
#: Likewise those of evaluations, which decide only which weights are the best ones.
_EVALUATION = ("eval_", "rir_", "metric_for_best_model", "greater_is_better")
#: Rows of a data set that are read for its digest.
_ROWS_READ = 8


def options_of(args: ImmunizationArguments, **further: Any) -> dict[str, Any]:
    """The arguments that decide the weights at the end, in the form of JSON, with further facts of the run."""
    keeps_best = args.load_best_model_at_end or args.save_strategy == SaveStrategy.BEST
    left_out = _HARMLESS if keeps_best else (*_HARMLESS, *_EVALUATION)
    found = {name: value for name, value in args.to_dict().items() if not name.startswith(left_out)}
    return json.loads(json.dumps(found | {"processes": args.world_size} | further, default=str))


def refuse_others(carried: Mapping[str, Any], now: Mapping[str, Any], where: str) -> None:
    """Refuses to go on with other options than a checkpoint's.

    Raises:
        InputError: with both values of each.
    """
    others = [
        f"{name} {carried[name]!r}, now {value!r}" for name, value in now.items() if carried.get(name, value) != value
    ]
    if others:
        raise InputError(
            f"The run of {where} has other options: {'; '.join(others)}. Go on with the same, or start anew in another "
            "folder (output_dir)."
        )


def data_digest(data: Any, collate: Callable[[list[Any]], Any]) -> str | None:
    """What tells two data sets apart: the length, all labels that can be read without an image, and a few rows.

    Args:
        data: a data set or a stream of model inputs, or None.
        collate: from samples to a batch.
    """
    if data is None:
        return None
    digest = hashlib.sha256(b"" if is_stream(data) else str(len(data)).encode())
    labels = getattr(data, "labels", None)
    if labels is not None:
        digest.update(str([int(one) for one in labels]).encode())
    first, second = _some_rows(data, collate), _some_rows(data, collate)
    for one, again in zip(first, second, strict=True):
        # A picture that is another one each time, though nothing is drawn otherwise, says nothing.
        digest.update(one if one == again else b"")
    return digest.hexdigest()[:16]


def model_digest(model: nn.Module, trained: Collection[str] = ()) -> str:
    """What tells two models apart, whatever the weights of the names in ``trained`` are."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)}".encode())
        if name not in trained:
            digest.update(_raw(value))
    return digest.hexdigest()[:16]


@undisturbed_random_numbers(seed=0)
def _some_rows(data: Any, collate: Callable[[list[Any]], Any]) -> list[bytes]:
    if is_stream(data):
        rows = first_samples(data, _ROWS_READ)
    else:
        positions = sorted({round(at * (len(data) - 1) / (_ROWS_READ - 1)) for at in range(_ROWS_READ)})
        rows = [data[position] for position in positions]
    return [
        b"".join(name.encode() + _raw(value) for name, value in batch.items() if isinstance(value, torch.Tensor))
        for batch in (collate([row]) for row in rows)
    ]


def _raw(value: torch.Tensor) -> bytes:
    return value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
