"""A published model measured again: what its record claims, what is found, and what cannot be checked."""

from __future__ import annotations

import dataclasses
import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from hf_immunize.attacks.attacker import choose_attackers
from hf_immunize.attacks.judging import Budgets
from hf_immunize.attacks.report import save_json
from hf_immunize.data.fingerprint import rows_fingerprint
from hf_immunize.data.streams import is_stream
from hf_immunize.data.task import ImageTask
from hf_immunize.errors import UserError
from hf_immunize.metrics.report import Protocol
from hf_immunize.models.class_names import in_order_of
from hf_immunize.models.extraction import extract_features
from hf_immunize.models.loaded import LoadedModel
from hf_immunize.models.loading import load_model
from hf_immunize.release.attack_claims import compare_attacks
from hf_immunize.release.claims import Claim, compare_results
from hf_immunize.release.measure import measure
from hf_immunize.release.record import DatasetRecord, ImmunizationRecord
from hf_immunize.release.released import find_release, published_claims
from hf_immunize.release.reloading import load_again, load_beside, offered, reasoned

__all__ = ["VERIFICATION_NAME", "Verification", "verify"]

VERIFICATION_NAME = "verification.json"
_CEILINGS = ("primary_only", "public")


@dataclass(frozen=True)
class Verification:
    """What :func:`verify` found.

    Attributes:
        name: the Hub id or the folder's name.
        revision: the commit that was verified; None for a folder.
        record: what was claimed.
        claims: one by one.
        measured: results of this measurement, in the form of a record.
        notes: what was chosen, in sentences.
    """

    name: str
    revision: str | None
    record: ImmunizationRecord = field(repr=False)
    claims: tuple[Claim, ...] = field(repr=False)
    measured: dict[str, Any] = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """True where everything that was asked for was checked and holds."""
        return all(one.status == "holds" for one in self.claims if one.asked)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return {
            "name": self.name,
            "revision": self.revision,
            "holds": self.holds,
            "claims": [one.to_dict() for one in self.claims],
            "measured": self.measured,
            "notes": list(self.notes),
        }

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Writes ``verification.json`` into ``folder``, whole or not at all, and returns its path."""
        return save_json(Path(folder) / VERIFICATION_NAME, self.to_dict())

    def __str__(self) -> str:
        at = f" at {self.revision}" if self.revision else ""
        lines = [f"{self.name}{at}", ""]
        groups = {
            "differs": "Differs",
            "cannot be checked": "Cannot be checked",
            "holds": "Holds",
        }
        for status, title in groups.items():
            found = [one for one in self.claims if one.status == status and one.asked]
            if found:
                lines += [f"{title} ({len(found)}):", *(f"  {_line(one)}" for one in found), ""]
        aside = [one for one in self.claims if not one.asked and one.status != "holds"]
        if aside:
            whose = dict.fromkeys(one.why for one in aside if one.why)
            lines += [f"Not asked for: {len(aside)} further figures.", *(f"  {why}" for why in whose), ""]
        lines.append(
            "Tolerances are half the standard error of each figure over its rows or groups, for what attackers train "
            "anew its 95 % interval."
        )
        lines.append("Everything that was asked for holds." if self.holds else "Not everything holds.")
        return "\n".join(lines)


def _line(claim: Claim) -> str:
    shown = f"{claim.name}: claimed {_figure(claim.claimed)}"
    if claim.measured is not None:
        shown += f", measured {_figure(claim.measured)}"
    if claim.tolerance:
        shown += f" (tolerance {claim.tolerance:.2g})"
    return f"{shown}. {claim.why}" if claim.why else shown


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_figure(one)}" for key, one in value.items())
    return textwrap.shorten(str(value), 60, placeholder=" …")


def verify(
    repo_id: str | os.PathLike[str],
    *,
    revision: str | None = None,
    primary: Any = None,
    harmful: Any = None,
    benign: Any = None,
    base: str | os.PathLike[str] | None = None,
    attackers: str | Sequence[str] | None = None,
    token: str | bool | None = None,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> Verification:
    """Measures a published model again and compares with what its record and its card claim.

    Nothing of the release is executed: weights are safetensors, the model's own code is never run. The base model is
    taken at the commit that the record names, or from the release where θ0 was fitted first; the data at the commits
    that the record names.

    Args:
        repo_id: ``user/name`` on the Hub, or a subfolder of a repository ``user/name/sub`` (with ``@revision``), or the
            folder of a release.
        revision: branch, tag or commit.
        primary: the primary data, as :func:`hf_immunize.load_task` takes them, where the record names none that can be
            fetched; taken with the record's splits, columns and seed.
        harmful: likewise.
        benign: likewise; needed for attacks alone.
        base: θ0 by name or folder, in place of the one that the record names.
        attackers: measure the attacks again too; names or groups as of :func:`hf_immunize.run_attacks`. Uplift is
            measured where the release offers what it is counted over: in folders ``primary_only`` and ``public``, or
            the public weights as the commit that the record names.
        token: of the Hub.
        batch_size: of the forward passes.
        device: where models run.
        progress: show progress bars.

    Returns:
        every claim with what was found; ``.holds`` where everything that was asked for does.

    Raises:
        UserError: no release there, a record that cannot be read, attackers that do not exist.
        ConnectionError: the Hub cannot be reached.
    """
    if attackers is not None:
        choose_attackers(attackers)
    release = find_release(repo_id, revision, token)
    record = release.record
    claims = list(published_claims(release))
    notes: list[str] = []
    reasons: dict[str, str] = {}
    models: dict[str, LoadedModel] = {}
    with reasoned(reasons, "immunized"):
        models["immunized"] = release.load("immunized")
    with reasoned(reasons, "initial"):
        models["initial"] = load_beside(release, "initial", token) if base is None else load_model(base, token=token)
    attacks = record.results.get("attacks") or {}
    wanted = {"control"} if attackers is not None or release.holds("control") else set()
    if attackers is not None:
        wanted |= {*(attacks.get("uplift") or {}).get("ceilings", ())} & {*_CEILINGS}
    for name in sorted(wanted):
        with reasoned(reasons, name):
            models[name] = load_beside(release, name, token)
    data = {}
    given = {"primary": primary, "harmful": harmful, "benign": benign}
    for task, named in given.items():
        facts: DatasetRecord | None = getattr(record, task)
        if facts is None or (task == "benign" and attackers is None):
            continue
        with reasoned(reasons, task):
            rows = load_again(facts, named, token)
            claims.append(_same_rows(task, facts, rows, trained_on=attackers is not None))
            notes += [f"{task}: {note}" for note in rows.notes]
            data[task] = rows
    common = {"batch_size": batch_size, "device": device, "progress": progress}
    measured = _measured(record, models, data, attackers, reasons, common)
    there = {"initial", "immunized"} | {name for name in wanted if offered(release, name)}
    found = list(compare_results(record.results, measured, there))
    if attacks:
        asked = set() if attackers is None else {one.name for one in choose_attackers(attackers)}
        found += compare_attacks(attacks, measured.get("attacks"), there, asked)
    claims += [_explained(one, reasons, attackers) for one in found]
    return Verification(release.name, release.revision, record, tuple(claims), measured, tuple(notes))


def _same_rows(task: str, facts: DatasetRecord, rows: ImageTask, *, trained_on: bool) -> Claim:
    wanted = {"measured on": facts.eval_fingerprint} | ({"trained on": facts.fingerprint} if trained_on else {})
    columns = (rows.image_column, rows.label_column)
    found = {"measured on": rows_fingerprint(rows.evaluation, *columns)}
    if trained_on and not is_stream(rows.train):
        found["trained on"] = rows_fingerprint(rows.train, *columns)
    name = f"the {task} rows"
    if None in wanted.values():
        return Claim(name, "no fingerprint", why="The record does not say what the rows hold.")
    same = wanted == found
    why = "" if same else "These are other rows than the record's; the figures below are of other data."
    return Claim(name, wanted, found, None, "holds" if same else "differs", why)


def _measured(
    record: ImmunizationRecord,
    models: Mapping[str, LoadedModel],
    tasks: Mapping[str, ImageTask],
    attackers: str | Sequence[str] | None,
    reasons: dict[str, str],
    common: dict[str, Any],
) -> dict[str, Any]:
    """Results in the form of a record, as far as models and data are there."""
    if "immunized" not in models or "primary" not in tasks:
        return {}
    loaded = models["immunized"]
    try:
        processor = loaded.require_processor()
        data = {task: one.inputs(processor, n_channels=loaded.n_channels, name=task) for task, one in tasks.items()}
        data["primary"] = cast(
            Any, tuple(in_order_of(loaded.model, one, "the primary data") for one in data["primary"])
        )
        # What was drawn of a stream for attackers to be fitted on is not kept.
        data = {task: (None if is_stream(train) else train, rest) for task, (train, rest) in data.items()}
        if "initial" not in models or "harmful" not in tasks:
            part = extract_features(
                loaded.model, data["primary"][1], batch_size=common["batch_size"], device=common["device"]
            )
            return {"primary_accuracy": {"immunized": part.accuracy}, "n_primary": len(data["primary"][1])}
        protocol = record.results.get("rir", {}).get("immunized", {}).get("protocol", {})
        protocol = {"group_size_asked": protocol.get("group_size"), **protocol} if protocol else {}
        asked = [protocol[name] for name in ("groups", "group_size_asked", "seed")] if protocol else []
        claimed = record.results.get("attacks")
        return measure(
            {name: one.model for name, one in models.items()},
            data,
            attackers=attackers,
            budgets=Budgets(**{k: tuple(v) for k, v in claimed["budgets"].items()}) if claimed else Budgets(),
            protocol=Protocol(*asked) if asked else None,
            **common,
        )
    except UserError as error:
        reasons["measuring"] = str(error)
        return {}


def _explained(claim: Claim, reasons: Mapping[str, str], attackers: str | Sequence[str] | None) -> Claim:
    """A claim that could not be checked, with the reason."""
    if claim.status != "cannot be checked" or claim.why:
        return claim
    if not claim.asked:
        if "control" in claim.name:
            why = reasons.get("control", "The release does not carry the control (save it with keep=['control']).")
        elif attackers is not None and any(word in claim.name for word in (*_CEILINGS, "uplift")):
            why = " ".join(reasons[name] for name in _CEILINGS if name in reasons)
        else:
            why = "Attacks are repeated with attackers=…."
        return dataclasses.replace(claim, why=why)
    order = ("immunized", "primary", "measuring", "initial", "harmful", "control", *_CEILINGS, "benign")
    why = " ".join(reasons[name] for name in order if name in reasons)
    return dataclasses.replace(claim, why=why or "The record has it, and this measurement does not.")
