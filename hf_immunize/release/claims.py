"""What a record claims beside what was measured again: holds, differs, or cannot be checked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from hf_immunize.spectra.ratio import SIGN

__all__ = [
    "CLAIM_NAMES",
    "ROUNDING",
    "SHARE",
    "Claim",
    "Status",
    "accuracy_tolerance",
    "claim_of",
    "compare_results",
    "together",
]

Status = Literal["holds", "differs", "cannot be checked"]

#: Of the standard error of a figure: a difference below that changes nothing that the figure says.
SHARE = 0.5
#: Relative; what another machine's rounding may change in a figure of features that are the same.
ROUNDING = 1e-3
RATIOS = ("rir", "rir_i", "rir_ii")
CLAIM_NAMES = {"rir": "RIR_θ0", "rir_i": "(i) harmful", "rir_ii": "(ii) primary"}
BOUND_WORDS = {
    "exact": "a value",
    "lower": "a lower bound",
    "upper": "an upper bound",
    "undetermined": "a ratio of two bounds",
}


@dataclass(frozen=True)
class Claim:
    """One figure, or a group of figures that stand or fall together.

    Attributes:
        name: what it is of.
        claimed: the figure of the record; of a group the one that is furthest from what was measured.
        measured: the figure measured again; None where it cannot be.
        tolerance: the largest difference that passes, in the unit of the figure.
        status: ``"holds"``, ``"differs"`` or ``"cannot be checked"``.
        why: the reason, where it does not hold.
        asked: False where the release does not offer it for checking, so that it does not count.
    """

    name: str
    claimed: Any
    measured: Any = None
    tolerance: float | None = None
    status: Status = "cannot be checked"
    why: str = ""
    asked: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def accuracy_tolerance(accuracy: float, n: int, share: float = SHARE) -> float:
    """A share of the standard error of an accuracy over ``n`` rows; at least one row."""
    clipped = min(max(accuracy, 0.0), 1.0)
    return max(share * math.sqrt(clipped * (1 - clipped) / n), 1 / n)


def compare_results(claimed: Mapping[str, Any], measured: Mapping[str, Any], models: set[str]) -> Iterator[Claim]:
    """Accuracy, RIR in both protocols, and spectra of a record's results beside the same measured again.

    Args:
        claimed: ``results`` of the record.
        measured: in the same form; what could not be measured is absent.
        models: that the release offers for checking, of ``initial``, ``immunized`` and ``control``.
    """
    n = next((one.get("n_primary") for one in measured.get("rir", {}).values()), None)
    for model, value in claimed.get("primary_accuracy", {}).items():
        again = measured.get("primary_accuracy", {}).get(model)
        n_rows = measured.get("n_primary") or n
        tolerance = accuracy_tolerance(value, n_rows) if n_rows else None
        yield claim_of(f"primary accuracy, {model}", value, again, tolerance, asked=model in models)
    for model, report in claimed.get("rir", {}).items():
        yield from _ratios(model, report, measured.get("rir", {}).get(model), model in models)
    if claimed.get("spectra"):
        yield _spectra(claimed["spectra"], measured.get("spectra"))


def claim_of(name: str, claimed: Any, measured: Any, tolerance: float | None, *, asked: bool = True) -> Claim:
    """One figure: it holds within the tolerance, and cannot be checked where it was not measured or has none."""
    if measured is None or tolerance is None:
        return Claim(name, claimed, asked=asked)
    near = _near(claimed, measured, tolerance)
    return Claim(name, claimed, measured, tolerance, "holds" if near else "differs", asked=asked)


def _near(claimed: Any, measured: Any, tolerance: float) -> bool:
    if not all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in (claimed, measured)):
        return bool(claimed == measured)
    # Accuracies are shares of whole rows: rounding of the last digit must not tip a difference of one row.
    return claimed == measured or abs(claimed - measured) <= tolerance * (1 + 1e-9)


def _ratios(model: str, claimed: Mapping[str, Any], measured: Mapping[str, Any] | None, asked: bool) -> Iterator[Claim]:
    """The claims of one model's RIR report; ``measured`` is of the same protocol."""
    everything = claimed.get("all_samples") or {}
    again = (measured or {}).get("all_samples") or {}
    groups = claimed["protocol"]["groups"]
    relative = {}
    for name in RATIOS:
        one = claimed[name]
        error = abs(one["spread"]) / math.sqrt(groups) if groups > 1 else 0.0
        relative[name] = max(SHARE * error / abs(one["mean"]) if one["mean"] else 0.0, ROUNDING)
        where = f"{CLAIM_NAMES[name]}, {model}, {groups} groups of {claimed['protocol']['group_size']}"
        yield _bounded(where, one["mean"], one["bound"], measured and measured[name], "mean", relative[name], asked)
        # Groups that are alike have a spread of rounding alone, which says nothing about the next one.
        rounding = ROUNDING * abs(one["mean"]) if math.isfinite(one["mean"]) else 0.0
        wide = SHARE / math.sqrt(2 * max(groups - 1, 1)) * abs(one["spread"]) + rounding
        parts = {"median": 1.25 * relative[name] * abs(one["median"]), "spread": wide}
        yield together(f"{where}: median and spread", one, measured and measured[name], parts, asked=asked)
        if everything:
            flat = again and {"value": again[name], "bound": again[f"{name}_bound"]}
            where = f"{CLAIM_NAMES[name]}, {model}, all samples"
            yield _bounded(where, everything[name], everything[f"{name}_bound"], flat, "value", relative[name], asked)
    ranks = {key: max(2.0, 0.05 * value) for key, value in claimed["ranks"].items()}
    yield together(f"ranks, {model}, groups", claimed["ranks"], measured and measured["ranks"], ranks, asked=asked)
    if everything:
        kinds = [key.removesuffix("_rank") for key in everything if key.endswith("_rank")]
        yield together(
            f"ranks, {model}, all samples",
            everything,
            again,
            {f"{one}_rank": max(2.0, 0.05 * everything[f"{one}_rank"]) for one in kinds},
            asked=asked,
        )
        # A κ whose last singular value stands at the floor of rounding is decided by where the floor falls.
        full = [one for one in kinds if everything[f"{one}_rank"] == _full_rank(everything, one)]
        widest = max(relative.values())
        parts = {f"{one}_condition_number": widest if one in full else 0.5 for one in kinds}
        yield together(f"κ, {model}, all samples", everything, again, parts, relative_to_claim=True, asked=asked)
        sizes = {key: 0.0 for key in everything if key.endswith(("_n_samples", "_n_features"))}
        yield together(f"numbers of samples and features, {model}", everything, again, sizes, asked=asked)
    sizes = dict.fromkeys(("n_harmful", "n_primary", "precision_limited", "groups", "group_size", "seed"), 0.0)
    # Where the groups of both tasks are of one size, one number says it.
    sizes |= {"group_size_primary": 0.0} if "group_size_primary" in claimed["protocol"] else {}
    found = {**measured, **measured["protocol"]} if measured else None
    yield together(f"rows and groups, {model}", {**claimed, **claimed["protocol"]}, found, sizes, asked=asked)


def _full_rank(everything: Mapping[str, Any], name: str) -> int:
    return min(everything[f"{name}_n_samples"], everything[f"{name}_n_features"])


def _bounded(
    name: str, claimed: float, bound: str, measured: Mapping[str, Any] | None, key: str, relative: float, asked: bool
) -> Claim:
    """A ratio that may be a bound: compared from both sides with one of its kind, else from the side that it bounds."""
    name = f"{name}{f' ({SIGN[bound].strip()})' if SIGN[bound] else ''}"
    if not measured:
        return Claim(name, claimed, asked=asked)
    value, other = measured[key], measured["bound"]
    tolerance = relative * abs(claimed) if math.isfinite(claimed) else 0.0
    if bound == other:
        holds = _near(claimed, value, tolerance)
    elif bound == "lower" and other != "undetermined":
        holds = value >= claimed - tolerance
    else:
        holds = bound == "upper" and other != "undetermined" and value <= claimed + tolerance
    why = "" if bound == other else f"What was measured is {BOUND_WORDS[other]}, and the claim {BOUND_WORDS[bound]}."
    return Claim(name, claimed, value, tolerance, "holds" if holds else "differs", why, asked)


def together(
    name: str,
    claimed: Mapping[str, Any],
    measured: Mapping[str, Any] | None,
    tolerances: Mapping[str, float],
    *,
    relative_to_claim: bool = False,
    asked: bool = True,
) -> Claim:
    """Figures that stand or fall together; the furthest from its tolerance is shown."""
    if not measured:
        return Claim(name, {key: claimed[key] for key in tolerances}, asked=asked)
    found = []
    for key, tolerance in tolerances.items():
        value, again = claimed[key], measured.get(key)
        allowed = tolerance * abs(value) if relative_to_claim else tolerance
        distance = 0.0 if value == again else math.inf
        if distance and isinstance(again, (int, float)) and isinstance(value, (int, float)):
            distance = abs(value - again) / allowed if allowed else math.inf
        found.append((distance, claim_of(f"{name} ({key})", value, again, allowed, asked=asked)))
    worst = max(found, key=lambda one: (one[1].status != "holds", one[0]))[1]
    if worst.status == "holds":
        return Claim(name, worst.claimed, worst.measured, worst.tolerance, "holds", asked=asked)
    return worst


def _spectra(claimed: Mapping[str, Any], measured: Mapping[str, Any] | None) -> Claim:
    """All eigenvalues in decades; those near the floor of rounding are left to the ranks."""
    if not measured:
        return Claim("spectra", f"{len(claimed) - 1} curves")
    furthest = 0.0
    for name, values in claimed.items():
        if name == "ranks":
            continue
        again = measured.get(name) or []
        # The floor of a float32 spectrum in eigenvalues; the curves are sampled by rank, which may differ by a few.
        pairs = [(one, two) for one, two in zip(values, again, strict=False) if one > 1e-10 and two > 1e-10]
        if not pairs or min(values) <= 0:
            furthest = math.inf
            continue
        furthest = max(furthest, *(abs(math.log10(one / two)) for one, two in pairs))
    return Claim("spectra, largest distance in decades", 0.0, furthest, 0.1, "holds" if furthest <= 0.1 else "differs")
