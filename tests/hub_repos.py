"""What a Hub on the loopback interface holds: repositories as snapshots, planted faults, and rules for metadata."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

TOKEN = "hf_" + "t" * 34
READ_TOKEN = "hf_" + "r" * 34


@dataclass
class Repo:
    """Snapshots by commit hash, branches by name; the id of a Space begins with ``spaces/``."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        digest = hashlib.sha1(f"{len(self.commits)}{branch}{message}{sorted(files)}".encode()).hexdigest()
        self.commits[digest] = files
        self.branches[branch] = digest
        self.messages.append(message)
        return digest

    def resolve(self, revision: str) -> str | None:
        revision = unquote(revision)
        return self.branches.get(revision) or (revision if revision in self.commits else None)

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.branches["main"]]


@dataclass
class Fault:
    """What goes wrong with requests.

    Attributes:
        where: regular expression on ``"METHOD /path"``.
        what: a status; or ``"cut"`` (no answer), ``"lost"`` (done, but no answer), ``"half"`` (half of the answer) or
            ``"slow"`` (half a second late).
        times: how many requests it meets.
        headers: of the answer.
    """

    where: str
    what: int | str
    times: int = 10**6
    headers: dict[str, str] = field(default_factory=dict)
    met: int = 0


def metadata_errors(data: dict[str, Any]) -> list[str]:
    """What the Hub's own check of a model card's metadata would complain about, as far as it is documented."""
    errors = []
    for key in ("tags", "datasets", "metrics"):
        value = data.get(key, [])
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            errors.append(f'"{key}" must be an array of strings')
    for name in [data.get("base_model"), *(data.get("datasets") or [])]:
        if name is not None and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
            errors.append(f'"{name}" is no valid id on the Hub')
    if data.get("base_model_relation") not in (None, "finetune", "adapter", "merge", "quantized"):
        errors.append('"base_model_relation" must be one of finetune, adapter, merge, quantized')
    for entry in data.get("model-index") or []:
        if not entry.get("name"):
            errors.append('"model-index[0].name" is required')
        for result in entry.get("results") or []:
            if not result.get("task", {}).get("type"):
                errors.append('"model-index[0].results[0].task.type" is required')
            if not result.get("dataset", {}).get("type") or not result.get("dataset", {}).get("name"):
                errors.append('"model-index[0].results[0].dataset" needs a type and a name')
            for metric in result.get("metrics") or [{}]:
                if "type" not in metric or "value" not in metric:
                    errors.append('"model-index[0].results[0].metrics" need a type and a value')
    return errors
