"""What a record names, loaded again: its data and the models beside the release, or the reason why they cannot be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hf_immunize.data.packaged import packaged_task
from hf_immunize.data.task import ImageTask, load_task
from hf_immunize.errors import InputError, UserError
from hf_immunize.models.loading import LoadedModel, load_model
from hf_immunize.release.record import COMMIT_HASH, DatasetRecord
from hf_immunize.release.released import Released

__all__ = ["load_again", "load_base", "reasoned"]

#: Arguments of `load_task` that a record may name; what else it holds is never passed on.
_REPEATED = (
    "split",
    "eval_split",
    "config",
    "image_column",
    "label_column",
    "labels",
    "seed",
    "max_train_samples",
    "max_eval_samples",
    "skip_corrupt",
    "streaming",
)


def load_again(facts: DatasetRecord, given: Any, token: str | bool | None) -> ImageTask:
    """The rows that a record describes: what was given in their place, or by the record's name at its commit.

    Raises:
        UserError: they cannot be fetched from what the record says.
    """
    arguments = {name: facts.arguments[name] for name in _REPEATED if name in facts.arguments}
    if given is None and facts.source == "package":
        return packaged_task(facts.arguments)
    if given is None:
        if facts.source != "hub" or not COMMIT_HASH.fullmatch(facts.revision or ""):
            raise InputError(
                f"The record names {facts.name!r} ({facts.source or 'of unknown origin'}) and no commit of the Hub. "
                "Give the same data yourself."
            )
        given = f"{facts.name}@{facts.revision}"
    elif facts.source == "package":
        arguments = {}
    if not isinstance(given, (str, os.PathLike)):
        arguments["config"] = None
    return load_task(given, token=token, **arguments)


def load_base(release: Released, given: str | os.PathLike[str] | None, token: str | bool | None) -> LoadedModel:
    """θ0 of a release: what was given in its place, what stands beside the weights, or the commit of its record.

    Raises:
        UserError: none of the three.
        ConnectionError: the Hub cannot be reached.
    """
    record = release.record
    if given is not None:
        return load_model(given, token=token)
    if release.holds("initial"):
        return release.load("initial")
    fitted = "fit" in record.training
    if record.base_model_hub_id is None or fitted or not COMMIT_HASH.fullmatch(record.base_model_revision or ""):
        why = "was fitted first" if fitted else "is no pinned commit of the Hub"
        raise InputError(f"θ0 {why}, and the release does not carry it. Give it yourself: base=… (--base).")
    return load_model(record.base_model, revision=record.base_model_revision, token=token)


@contextmanager
def reasoned(reasons: dict[str, str], of: str) -> Iterator[None]:
    """What is gone, gated, moved or of other columns is a reason why claims cannot be checked, and no end.

    Args:
        reasons: what could not be had → why; added to.
        of: the name of what is loaded inside.
    """
    try:
        yield
    except (UserError, ConnectionError) as error:
        reasons[of] = str(error)
