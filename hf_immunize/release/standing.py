"""Where a release stands, in a line: what its record claims, and what a verification measured of that."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_immunize.attacks.report import CEILINGS, AttackReport, largest
from hf_immunize.attacks.uplift import most_uplift
from hf_immunize.attacks.verdict import verdict_of
from hf_immunize.errors import InputError, MissingFileError
from hf_immunize.release.claims import compare_results
from hf_immunize.release.record import ImmunizationRecord
from hf_immunize.release.summary import number
from hf_immunize.release.verify import VERIFICATION_NAME
from hf_immunize.spectra.ratio import SIGN

__all__ = [
    "Measured",
    "Standing",
    "Strongest",
    "ratio_text",
    "read_verification",
    "standing",
    "verification_of",
]

KINDS = ("probe", "fine-tuning")
#: Of claims, and what they come to together; the first that occurs decides.
_STATUSES = {"differs": "differs", "cannot be checked": "not all checked", "holds": "holds"}


@dataclass(frozen=True)
class Strongest:
    """The strongest attackers of a kind on the harmful task, at their largest budget.

    Attributes:
        attacker: that which has most of θ0's back; of its accuracy, where θ0 has none to give.
        control: accuracy of the strongest on the control; None where there was none.
        immunized: accuracy of the strongest on the immunized model.
        recovery: share of what θ0 gives beyond random weights, None where θ0 gives hardly anything.
        outcome: ``"held"``, ``"weakened"``, ``"broken"`` or ``"undecided"``.
        uplift: the most that the strongest has beyond what an attacker has anyway, over all budgets; None where no
            such model was attacked.
        beyond: the model that this is counted over, in words; empty without.
    """

    attacker: str
    control: float | None
    immunized: float
    recovery: float | None
    outcome: str
    uplift: float | None = None
    beyond: str = ""


@dataclass(frozen=True)
class Standing:
    """The figures of one release; None is what was not measured.

    Attributes:
        rir: RIR_θ0, mean over groups.
        bound: which kind of number that is, see :data:`hf_immunize.spectra.ratio.SIGN`.
        accuracy: of the primary task: model → share.
        strongest: by kind, ``"probe"`` and ``"fine-tuning"``.
        benign_cost: accuracy that the benign task lost.
        against: against which model.
        verdict: what follows from the record's figures, in sentences; its own words are not taken.
    """

    rir: float | None
    bound: str
    accuracy: dict[str, float]
    strongest: dict[str, Strongest]
    benign_cost: float | None
    against: str
    verdict: str


@dataclass(frozen=True)
class Measured:
    """What a verification found.

    Attributes:
        status: ``"holds"``, ``"differs"`` or ``"not all checked"``.
        counts: status → claims that were asked for.
        differing: ``(claim, claimed, measured)`` of those that differ, in words.
        rir: as measured, with its sign; empty where it was not.
        accuracy: model → share, as measured.
    """

    status: str
    counts: dict[str, int]
    differing: tuple[tuple[str, str, str], ...]
    rir: str
    accuracy: dict[str, float]


def standing(results: Mapping[str, Any]) -> Standing:
    """Reads the results of a record, which were checked when it was loaded."""
    ratio = ((results.get("rir") or {}).get("immunized") or {}).get("rir")
    attacks = AttackReport.from_dict(results["attacks"]) if results.get("attacks") else None
    benign = (attacks.selectivity or {}) if attacks else {}
    follows: dict[str, Any] = verdict_of(attacks.to_dict()) if attacks else {"text": ""}
    return Standing(
        rir=ratio["mean"] if ratio else None,
        bound=ratio["bound"] if ratio else "exact",
        accuracy=dict(results.get("primary_accuracy") or {}),
        strongest={
            kind: _strongest(attacks, kind, follows["outcome"][kind])
            for kind in KINDS
            if attacks and kind in attacks.worst_case
        },
        benign_cost=benign.get("cost"),
        against="θ0" if benign.get("against") == "initial" else "the control",
        verdict=follows["text"],
    )


def _strongest(attacks: AttackReport, kind: str, outcome: str) -> Strongest:
    by_model = {model: largest(one) for model, one in attacks.worst_case[kind].items()}
    own = {name: attacks.recovery[name]["value"] for name, one in attacks.attackers.items() if one["kind"] == kind}
    values = {name: value for name, value in own.items() if value is not None}
    attacker = max(values, key=lambda name: values[name]) if values else by_model["immunized"]["attacker"]
    most: dict[str, Any] = {}
    if attacks.uplift:
        best = most_uplift(attacks.uplift["worst_case"][kind]["immunized"])
        most = {"uplift": best["value"], "beyond": CEILINGS[best["ceiling"]]}
    return Strongest(
        attacker=attacker,
        control=by_model["control"]["mean"] if "control" in by_model else None,
        immunized=by_model["immunized"]["mean"],
        recovery=values.get(attacker),
        outcome=outcome,
        **most,
    )


def ratio_text(value: float | None, bound: str = "exact") -> str:
    """A ratio with the sign of its bound; "–" for None."""
    return "–" if value is None else f"{SIGN[bound]}{number(value)}"


def verification_of(
    name: str,
    revision: str | None,
    record: ImmunizationRecord,
    folder: Path | None,
    given: Iterable[Mapping[str, Any]] = (),
) -> Measured | None:
    """The verification of a release: among those given by its name, else the one inside or beside its folder.

    What lies in a repository of the Hub is its authors' word, and no verification.

    Args:
        name: of the release.
        revision: its commit; None for a folder.
        record: which the verification must be of.
        folder: of a release that lies on this machine.
        given: the contents of ``verification.json`` files.

    Returns:
        None where there is none of this release at this commit.

    Raises:
        InputError: a file that is no verification, or none by this name that is of this record.
    """
    places = [] if folder is None else [folder / VERIFICATION_NAME, folder.resolve().parent / VERIFICATION_NAME]
    found = [*given, *(read_verification(path) for path in places if path.is_file())]
    refused: InputError | None = None
    # Folders of several releases may have one name: a verification of another is no fault where there is one of this.
    for one in found:
        if one["name"] == name and one["revision"] == revision:
            try:
                return _measured(one, record)
            except InputError as error:
                refused = refused or error
    if refused is not None:
        raise refused
    return None


def read_verification(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The contents of a ``verification.json``, or of the folder that holds it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no verification.
    """
    path = Path(path).expanduser()
    path = path / VERIFICATION_NAME if path.is_dir() else path
    if not path.is_file():
        raise MissingFileError(f"There is no {path}. `hf-immunize verify MODEL --output_dir FOLDER` writes one.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON ({error}). Verify the model again.") from error
    if not isinstance(found, dict) or not {"name", "revision", "claims", "measured"} <= found.keys():
        raise InputError(f"{path} is no verification: `hf-immunize verify MODEL --output_dir FOLDER` writes one.")
    return found


def _measured(found: Mapping[str, Any], record: ImmunizationRecord) -> Measured:
    try:
        claimed = {one["name"]: one["claimed"] for one in found["claims"]}
        own = {one.name: one.claimed for one in compare_results(record.results, {}, set())}
        shared = [name for name in own if name in claimed and isinstance(own[name], (int, float))]
        if not shared or any(own[name] != claimed[name] for name in shared):
            raise InputError("its verification is of another record. Verify it again.")
        asked = [one for one in found["claims"] if one["asked"]]
        counts = {status: sum(one["status"] == status for one in asked) for status in _STATUSES}
        ratio = (found["measured"].get("rir") or {}).get("immunized", {}).get("rir")
        return Measured(
            status=next((word for status, word in _STATUSES.items() if counts[status]), "not all checked"),
            counts=counts,
            differing=tuple(
                (str(one["name"]), _words(one["claimed"]), _words(one["measured"]))
                for one in asked
                if one["status"] == "differs"
            ),
            rir=ratio_text(float(ratio["mean"]), ratio["bound"]) if ratio else "",
            accuracy={name: float(one) for name, one in (found["measured"].get("primary_accuracy") or {}).items()},
        )
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"its verification cannot be read ({type(error).__name__}: {error})") from error


def _words(value: Any) -> str:
    if isinstance(value, float):
        return number(value)
    text = ", ".join(f"{key} {one}" for key, one in value.items()) if isinstance(value, Mapping) else str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
