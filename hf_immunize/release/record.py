"""``immunization.json``: everything needed to repeat an immunization and to check what its card claims."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from hf_immunize.attacks.report import AttackReport
from hf_immunize.data.whole_files import whole_file
from hf_immunize.errors import InputError, MissingFileError, did_you_mean
from hf_immunize.models.untrusted import read_json
from hf_immunize.release.privacy import base_names, redact_tokens, without_paths
from hf_immunize.release.structure import check_record

__all__ = [
    "COMMIT_HASH",
    "RECORD_NAME",
    "SCHEMA_VERSION",
    "DatasetRecord",
    "ImmunizationRecord",
    "library_versions",
    "record_digest",
]

RECORD_NAME = "immunization.json"
SCHEMA_VERSION = 2

#: Class names that stand in a title before it ends in dots.
MAX_CLASSES_IN_TITLE = 10

TASKS = ("primary", "harmful", "benign")
KINDS = ("hub", "local", "package")
LIBRARIES = ("transformers", "timm")
COMMIT_HASH = re.compile(r"[0-9a-f]{40}")

_NON_FINITE = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}


@dataclass
class DatasetRecord:
    """One data set of a run.

    Attributes:
        name: a Hub id, or a description where the data came from elsewhere; no local path.
        revision: the commit hash on the Hub, None for other sources.
        config: the configuration (subset) of a Hub data set.
        split: the split trained on.
        eval_split: the split that the results were measured on.
        fingerprint: of the contents of the rows trained on, see :func:`hf_immunize.data.fingerprint.rows_fingerprint`.
        n_train: number of training samples.
        n_eval: number of evaluation samples.
        classes: names of the classes, in the order of the labels.
        license: as the source states it.
        eval_fingerprint: of the rows measured on.
        source: ``"hub"``, ``"local"``, ``"package"`` or ``"object"``.
        arguments: what loads the same rows again, with the name: of :func:`hf_immunize.load_task`, or of a package's
            function.
        hub_id: the id on the Hub of the same images where ``name`` is none; set it only where that is so.
    """

    name: str
    revision: str | None = None
    config: str | None = None
    split: str | None = None
    eval_split: str | None = None
    fingerprint: str | None = None
    n_train: int | None = None
    n_eval: int | None = None
    classes: list[str] | None = None
    license: str | None = None
    eval_fingerprint: str | None = None
    source: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    hub_id: str | None = None

    @property
    def hub_dataset(self) -> str | None:
        """The Hub id: given, or the name of a data set that a Hub commit pins; None otherwise."""
        if self.hub_id:
            return self.hub_id
        return self.name if COMMIT_HASH.fullmatch(self.revision or "") else None


@dataclass
class ImmunizationRecord:
    """What ``immunization.json`` holds. Plain data: JSON in, JSON out.

    Attributes:
        base_model: Hub id of θ0, with a subfolder behind it (``user/name/sub``), or a description of it.
        base_model_revision: its commit hash, None where it does not come from the Hub.
        base_model_kind: ``"hub"``, ``"local"`` or ``"package"``.
        library: ``"transformers"`` or ``"timm"``: what the saved weights load with.
        architecture: class name (transformers) or model name (timm).
        primary, harmful, benign: the data sets; ``benign`` is the task that training never saw.
        objective: name, weights and options of what was added to the task loss.
        trainable: ``selection``, ``modules``, ``n_parameters``, ``n_total``.
        training: steps, batch sizes, learning rate and everything else the optimizer was given; seconds it took.
        seeds: every seed by its use.
        versions: of Python and of the libraries, see :func:`library_versions`.
        command: the command line that repeats the run.
        license: of the immunized weights.
        input_shape: channels, height and width of what the model reads.
        files: SHA-256 of weights, configuration and everything else that a save wrote, by relative path.
        results: ``primary_accuracy``, ``rir``, ``attacks``, ``spectra``; accuracies are fractions. What was not
            measured is absent.

    Raises:
        ValueError: a field holds a value that it cannot have.
    """

    base_model: str
    library: str
    primary: DatasetRecord
    harmful: DatasetRecord
    base_model_revision: str | None = None
    base_model_kind: str = "hub"
    architecture: str | None = None
    benign: DatasetRecord | None = None
    objective: dict[str, Any] = field(default_factory=dict)
    trainable: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    seeds: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=lambda: library_versions())
    command: str | None = None
    license: str | None = None
    input_shape: list[int] | None = None
    files: dict[str, str] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        hub = (self.base_model,) if self.base_model_kind == "hub" else ()
        self.command = base_names(self.command, hub) if isinstance(self.command, str) else self.command
        self.training, self.trainable = without_paths(self.training), without_paths(self.trainable)
        _one_of("base_model_kind", self.base_model_kind, KINDS)
        _one_of("library", self.library, LIBRARIES)
        for name in TASKS:
            value = getattr(self, name)
            if isinstance(value, dict):
                setattr(self, name, _from_dict(DatasetRecord, value, name))
            elif not isinstance(value, DatasetRecord) and not (value is None and name == "benign"):
                raise InputError(f"{name} must be a DatasetRecord, got {type(value).__name__}.")

    @property
    def base_model_hub_id(self) -> str | None:
        """The Hub id of θ0, without a subfolder; None where it came from a folder or a package."""
        return "/".join(self.base_model.split("/")[:2]) if self.base_model_kind == "hub" else None

    def on_the_hub(self, model: str) -> bool:
        """Whether ``initial``, or ``public`` of a run that fitted first, is the base model at a commit of the Hub."""
        pinned = self.base_model_hub_id and COMMIT_HASH.fullmatch(self.base_model_revision or "")
        return bool(pinned) and model == ("public" if "fit" in self.training else "initial")

    @property
    def attack_report(self) -> AttackReport | None:
        """What the attackers found; None where none was run."""
        return AttackReport.from_dict(self.results["attacks"]) if self.results.get("attacks") else None

    def title(self, task: str) -> str:
        """The name of a task's data; with its classes where another task of the run has data of the same name."""
        data: DatasetRecord = getattr(self, task)
        others = [getattr(self, name) for name in TASKS if name != task]
        if not data.classes or all(other is None or other.name != data.name for other in others):
            return data.name
        shown = ", ".join(data.classes[:MAX_CLASSES_IN_TITLE])
        return f"{data.name}, classes {shown}{', …' if len(data.classes) > MAX_CLASSES_IN_TITLE else ''}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; tokens are replaced, non-finite numbers written as words."""
        return redact_tokens(_encode(asdict(self)))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ImmunizationRecord:
        """The record that :meth:`to_dict` wrote.

        Raises:
            ValueError: no schema version or a newer one, unknown fields, missing fields.
        """
        version = values.get("schema_version") if isinstance(values, dict) else None
        if not isinstance(version, int):
            raise InputError("This is no immunization record: it has no whole number as schema_version.")
        if version > SCHEMA_VERSION:
            raise InputError(
                f"This record has schema version {version}; this hf_immunize reads version {SCHEMA_VERSION}. "
                "Upgrade it: pip install -U hf-immunize."
            )
        if version < SCHEMA_VERSION:
            raise InputError(
                f"This record has schema version {version}, of an hf_immunize before the attack suite; this one reads "
                f"version {SCHEMA_VERSION}. Measure the model again: hf-immunize evaluate, hf-immunize attack."
            )
        values = values | {"results": _decode(values.get("results", {}))}
        values.pop("digest", None)
        record = _from_dict(cls, values, "record")
        check_record(values)
        return record

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Writes ``immunization.json`` into ``folder``, whole or not at all, and returns its path."""
        path = Path(folder) / RECORD_NAME
        values = self.to_dict()
        values["digest"] = record_digest(values)
        text = json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
        with whole_file(path) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
        return path

    @classmethod
    def load(cls, folder_or_file: str | os.PathLike[str]) -> ImmunizationRecord:
        """Reads a record from its file or from the folder that holds it.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not a record, or one of a newer version.
        """
        path = Path(folder_or_file)
        if path.is_dir():
            path = path / RECORD_NAME
        if not path.is_file():
            raise MissingFileError(
                f"No {RECORD_NAME} at {path}. Give a folder that hf-immunize wrote, or the file itself."
            )
        values = read_json(path)
        try:
            return cls.from_dict(values)
        except ValueError as error:
            raise InputError(f"{path}: {error}") from error


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide a result; what is not installed is left out."""
    versions = {"python": platform.python_version()}
    names = ("torch", "transformers", "timm", "accelerate", "datasets", "huggingface_hub", "hf-immunize")
    for name in names:
        try:
            versions[name.replace("-", "_")] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def record_digest(values: dict[str, Any]) -> str:
    """Of a record's plain values, so that a change by hand is seen: it proves nothing about who wrote them."""
    plain = {key: value for key, value in values.items() if key != "digest"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}.")


def _from_dict(cls: type, values: dict[str, Any], where: str) -> Any:
    known = [one.name for one in fields(cls)]
    for key in values:
        if key not in known:
            hint = did_you_mean(key, known) or f" Known are: {', '.join(known)}."
            raise InputError(f"Unknown field {key!r} in {where}.{hint}")
    try:
        return cls(**values)
    except TypeError as error:
        raise InputError(f"The {where} is not complete: {error}.") from error


def _encode(value: Any) -> Any:
    """JSON values: keys as strings, tuples as lists, tensors and NumPy numbers as numbers, no bare Infinity."""
    if isinstance(value, dict):
        return {str(key): _encode(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(one) for one in value]
    if hasattr(value, "tolist") and not isinstance(value, str):
        return _encode(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    return str(value)


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _decode(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_decode(one) for one in value]
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value
