"""What a record claims of attackers beside the same attacks made again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hf_immunize.attacks.report import MODELS, AttackReport, largest
from hf_immunize.attacks.verdict import verdict_of
from hf_immunize.release.claims import ROUNDING, Claim, accuracy_tolerance, claim_of, together
from hf_immunize.release.wording import other_figures

__all__ = ["compare_attacks"]

#: Of the normal distribution: what the cards give as an interval, for what is trained anew.
QUANTILE = 1.96
#: Budgets of steps stand about this factor apart; a cost in steps may come out one budget away.
BUDGET_FACTOR = 3.4


def compare_attacks(
    claimed: Mapping[str, Any], measured: Mapping[str, Any] | None, models: set[str], attackers: set[str]
) -> Iterator[Claim]:
    """The attackers' figures beside the same measured again: means over fits, so within their 95 % interval.

    Args:
        claimed: ``attacks`` of the record's results.
        measured: in the same form, or None.
        models: that the release offers for checking.
        attackers: that were asked for; the others do not count.
    """
    # JSON sorts the keys, and the verdict names attackers in the order of the tables.
    claimed = AttackReport.from_dict(claimed).to_dict()
    again = measured or {}
    # Random weights need no file.
    models = models | {"scratch"}
    for attacker, one in claimed["attackers"].items():
        for model, cells in one["accuracy"].items():
            other = again.get("attackers", {}).get(attacker, {}).get("accuracy", {}).get(model)
            asked = attacker in attackers and model in models
            yield _cells(f"{attacker}, {model}", cells, other, claimed["n_test"], asked)
        width = accuracy_tolerance(0.5, claimed["n_test"], QUANTILE) / max(_headroom(claimed, one["kind"]), 0.05)
        recovery = {name: claimed["recovery"][attacker][name] for name in ("value", "low", "high", "steps")}
        given = {name: value for name, value in recovery.items() if value is not None}
        if given:
            other = again.get("recovery", {}).get(attacker)
            yield together(
                f"{attacker}, recovery", given, other, dict.fromkeys(given, width), asked=attacker in attackers
            )
        yield _cost(
            f"{attacker}, cost",
            claimed["slowdown"][attacker],
            again.get("slowdown", {}).get(attacker),
            attacker in attackers,
        )
    everyone = set(claimed["attackers"]) <= attackers
    for kind, by_unit in claimed["cost_ratio"].items():
        for unit, cost in by_unit.items():
            yield _cost(
                f"strongest {kind}, {unit}", cost, again.get("cost_ratio", {}).get(kind, {}).get(unit), everyone
            )
    for kind, by_model in claimed["worst_case"].items():
        for model, cells in by_model.items():
            other = again.get("worst_case", {}).get(kind, {}).get(model)
            asked = everyone and model in models
            yield _cells(f"strongest {kind}, {model}", cells, other, claimed["n_test"], asked)
    if claimed["uplift"]:
        yield from _uplift(claimed, again, models, attackers)
    for kind, by_model in claimed["trials"].items():
        for model, by_steps in by_model.items():
            other = again.get("trials", {}).get(kind, {}).get(model)
            yield _search(
                f"search by {kind}, {model}", by_steps, other, claimed["n_test"], everyone and model in models
            )
    benign = dict(claimed.get("selectivity") or {})
    tuned = {f"benign task, {steps} steps": one for steps, one in benign.pop("fine-tuning", {}).items()}
    again_benign = dict(again.get("selectivity", {}))
    again_tuned = {f"benign task, {steps} steps": one for steps, one in again_benign.pop("fine-tuning", {}).items()}
    for name, by_model in ({"benign task": benign} | tuned).items():
        for model in (one for one in MODELS if one in by_model):
            mean = by_model[model]["mean"]
            other = ({"benign task": again_benign} | again_tuned).get(name, {}).get(model)
            tolerance = accuracy_tolerance(mean, claimed["n_test"], QUANTILE)
            asked = everyone and model in models
            yield claim_of(f"{name}, {model}", mean, other and other["mean"], tolerance, asked=asked)
        if name in tuned:
            cost = by_model[by_model["against"]]["mean"] - by_model["immunized"]["mean"]
            yield claim_of(f"the cost of the {name}, follows from its figures", by_model["cost"], cost, 1e-9)
    for model, by_share in claimed["exact_steps"].items():
        steps = {share: float(value) for share, value in by_share.items() if value is not None}
        other = {share: value for share, value in again.get("exact_steps", {}).get(model, {}).items() if value}
        if steps:
            asked = everyone and model in models
            factors = dict.fromkeys(steps, 0.5)
            yield together(f"exact steps, {model}", steps, other, factors, relative_to_claim=True, asked=asked)
    exact = dict.fromkeys(("chance", "n_test", "n_train", "reference"), 0.0)
    yield together("chance, and rows of the attacks", claimed, measured, exact, asked=everyone)
    outcome = claimed["verdict"]["outcome"]
    yield claim_of("the verdict", outcome, again.get("verdict", {}).get("outcome"), 0.0, asked=everyone)
    if claimed["flags"] is not None:
        measured_flags = again.get("flags")
        kinds = None if measured_flags is None else sorted(measured_flags)
        yield claim_of("signs of hidden gradients", sorted(claimed["flags"]), kinds, 0.0, asked=everyone)
    told = claimed["verdict"]
    yield _words(told["text"], verdict_of(claimed)["text"], claimed)
    if benign and "immunized" in benign:
        cost = benign[benign["against"]]["mean"] - benign["immunized"]["mean"]
        said = {"verdict": told.get("benign_cost"), "selectivity": claimed["selectivity"]["cost"]}
        follows = dict.fromkeys(said, cost)
        name = "the cost on the benign task follows from its figures"
        yield together(name, said, follows, dict.fromkeys(said, 1e-9))


def _words(given: str, own: str, claimed: Mapping[str, Any]) -> Claim:
    """The verdict in words, which those of an earlier version may be; its figures and outcomes are of the report."""
    figures = {name: one for name, one in claimed.items() if name != "verdict"}
    other = next(other_figures(given, own, figures), None)
    why = f"{other.given} is not of its figures: {other.where}" if other else ""
    name = "the verdict's words follow from its figures"
    return Claim(name, given, own, None, "differs" if other else "holds", why)


def _uplift(
    claimed: Mapping[str, Any], again: Mapping[str, Any], models: set[str], attackers: set[str]
) -> Iterator[Claim]:
    """Uplift beside the same measured again, where all its ceilings can be; and whether it follows from accuracies."""
    uplift, other = claimed["uplift"], again.get("uplift") or {}
    # Over other models it is another figure.
    other = other if other.get("ceilings") == uplift["ceilings"] else {}
    measurable = set(uplift["ceilings"]) <= models
    # Of a difference of two accuracies.
    tolerance = 2**0.5 * accuracy_tolerance(0.5, claimed["n_test"], QUANTILE)
    figures = ("value", "low", "high")
    everyone = measurable and set(claimed["attackers"]) <= attackers
    tables: list[tuple[str, str, Any, bool, tuple[str, ...], str]] = [
        (f"uplift by {kind}, {model}", kind, claimed["worst_case"][kind][model], everyone, (kind, model), "worst_case")
        for kind, by_model in uplift["worst_case"].items()
        for model in by_model
    ]
    tables += [
        (
            f"{name}, uplift",
            one["kind"],
            one["accuracy"]["immunized"],
            measurable and name in attackers,
            (name,),
            "attackers",
        )
        for name, one in claimed["attackers"].items()
    ]
    for title, kind, accuracy, asked, path, part in tables:
        cells, found = uplift[part], other.get(part, {})
        for key in path:
            cells, found = cells[key], found.get(key, {})
        given = _flat(cells, figures)
        yield together(title, given, _flat(found, figures), dict.fromkeys(given, tolerance), asked=asked)
        ceilings = [_flat(claimed["worst_case"][kind][name], ["mean"]) for name in uplift["ceilings"]]
        follows = {key: mean - max(one[key] for one in ceilings) for key, mean in _flat(accuracy, ["mean"]).items()}
        said = {key: given[key.replace(", mean", ", value")] for key in follows}
        yield together(f"{title}: it follows from its figures", said, follows, dict.fromkeys(said, 1e-9))


def _flat(cells: Mapping[str, Any], figures: Sequence[str]) -> dict[str, float]:
    return {
        f"{samples} images a class, {steps} steps, {name}": cell[name]
        for samples, by_steps in cells.items()
        for steps, cell in by_steps.items()
        for name in figures
    }


def _search(name: str, claimed: Mapping[str, Any], measured: Mapping[str, Any] | None, n: int, asked: bool) -> Claim:
    """Settings tried, and what the search came to, at each number of steps; its way there may be another."""

    def ends(by_steps: Mapping[str, Any]) -> dict[str, float]:
        found = {f"{steps} steps, settings": one["tried"] for steps, one in by_steps.items()}
        last = {steps: one["improvements"][-1]["accuracy"] for steps, one in by_steps.items() if one["improvements"]}
        return found | {f"{steps} steps, accuracy": accuracy for steps, accuracy in last.items()}

    given = ends(claimed)
    width = {key: accuracy_tolerance(value, n, QUANTILE) if "accuracy" in key else 0.0 for key, value in given.items()}
    return together(name, given, measured and ends(measured), width, asked=asked)


def _headroom(claimed: Mapping[str, Any], kind: str) -> float:
    """What θ0 gives the strongest attackers of a kind beyond random weights, or beyond chance."""
    worst = claimed["worst_case"][kind]
    least = largest(worst["scratch"])["mean"] if "scratch" in worst else claimed["chance"]
    return largest(worst["initial"])["mean"] - least


def _cost(name: str, claimed: Mapping[str, Any], measured: Mapping[str, Any] | None, asked: bool) -> Claim:
    """Steps or images to nine tenths of an accuracy; they come in budgets, and the next one is near."""
    given = {key: float(claimed[key]) for key in ("initial", "immunized") if str(claimed[key]).isdigit()}
    other = {key: float(value) for key, value in (measured or {}).items() if str(value).isdigit()}
    factors = dict.fromkeys(given, BUDGET_FACTOR - 1)
    if claimed.get("target") is not None:
        given["target"], factors["target"] = claimed["target"], 0.05
        other |= {"target": measured["target"]} if measured else {}
    if claimed.get("ratio") is not None and len(given) > 1:
        ratio = given["immunized"] / given["initial"] if "immunized" in given and "initial" in given else None
        if ratio is not None and abs(ratio - claimed["ratio"]) > ROUNDING * ratio:
            return Claim(name, claimed["ratio"], ratio, ROUNDING, "differs", "It does not follow from its parts.")
    return together(name, given, other if measured else None, factors, relative_to_claim=True, asked=asked)


def _cells(name: str, claimed: Mapping[str, Any], measured: Mapping[str, Any] | None, n: int, asked: bool) -> Claim:
    """Accuracies of one attacker on one model at every budget, with their intervals and single fits."""
    flat: dict[str, float] = {}
    again: dict[str, float] = {}
    tolerances: dict[str, float] = {}
    for samples, by_steps in claimed.items():
        for steps, cell in by_steps.items():
            other = (measured or {}).get(samples, {}).get(steps, {})
            where = f"{samples} images a class, {steps} steps"
            for figure in ("mean", "low", "high"):
                flat[f"{where}, {figure}"] = cell[figure]
                tolerances[f"{where}, {figure}"] = accuracy_tolerance(cell["mean"], n, QUANTILE)
                if figure in other and _follows(cell):
                    again[f"{where}, {figure}"] = other[figure]
    return together(name, flat, again, tolerances, asked=asked)


def _follows(cell: Mapping[str, Any]) -> bool:
    """Whether a mean is that of its single fits; a worst case keeps no fits."""
    fits = cell.get("seeds")
    return not fits or abs(sum(fits) / len(fits) - cell["mean"]) <= ROUNDING
