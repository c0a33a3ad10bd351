"""What a record names, loaded again: its data and the models beside the release, or the reason why they cannot be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hf_immunize.data.packaged import packaged_task
from hf_immunize.data.task import ImageTask, load_task
from hf_immunize.errors import InputError, UserError
from hf_immunize.models.loaded import LoadedModel
from hf_immunize.models.loading import load_model
from hf_immunize.release.record import COMMIT_HASH, DatasetRecord
from hf_immunize.release.released import Released

__all__ = ["load_again", "load_beside", "offered", "reasoned"]

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


def offered(release: Released, model: str) -> bool:
    """Whether a release has ``initial``, ``control`` or a ceiling for others: beside it, or as a commit of the Hub."""
    return release.holds(model) or release.record.on_the_hub(model)


def load_beside(release: Released, model: str, token: str | bool | None) -> LoadedModel:
    """``initial``, ``control`` or a ceiling of a release: beside the weights, or the commit that the record names.

    Raises:
        UserError: the release does not offer it, or it cannot be read.
        ConnectionError: the Hub cannot be reached.
    """
    record = release.record
    if not release.holds(model) and record.on_the_hub(model):
        return load_model(record.base_model, revision=record.base_model_revision, token=token)
    if model == "initial" and not release.holds(model):
        why = "was fitted first" if "fit" in record.training else "is no pinned commit of the Hub"
        raise InputError(f"θ0 {why}, and the release does not carry it. Give it yourself: base=… (--base).")
    return release.load(model)


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
