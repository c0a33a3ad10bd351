"""What a suite found: accuracies with intervals, worst case, recovery, cost and verdict; as JSON and as a table."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hf_immunize.attacks.attacker import ATTACKERS
from hf_immunize.data.whole_files import whole_file

__all__ = ["CEILINGS", "MODELS", "REPORT_NAME", "AttackReport", "largest", "last_improvement", "save_json", "word"]

REPORT_NAME = "attacks.json"
#: What an attacker has without the release, in words.
CEILINGS = {"scratch": "random weights", "primary_only": "the primary task alone", "public": "public weights"}
MODELS = ("initial", "control", "immunized", *CEILINGS)
_KINDS = ("probe", "fine-tuning")


@dataclass(frozen=True)
class AttackReport:
    """Every attacker on every model at every budget, and what follows from it. All fields are plain JSON values.

    Budgets are written as words: samples a class ``"10"``, ``"100"``, ``"all"``; steps ``"1000"``. Accuracies are
    shares of the test rows, means over seeds; ``low`` and ``high`` end their 95 % bootstrap interval over test rows.

    Attributes:
        attackers: name → ``kind``, ``description``, ``accuracy`` (model → samples → steps → ``mean``, ``low``,
            ``high``, ``seeds``, ``setting``).
        worst_case: kind (``probe``, ``fine-tuning``) → model → samples → steps → ``attacker``, ``mean``, …
        recovery: attacker → ``value``, ``low``, ``high``, ``steps``, ``samples``: (accuracy on θᴵ − worst case from
            scratch) / (worst case on θ0 − worst case from scratch) at its largest budget, worst cases of its kind.
        slowdown: attacker → steps that it needs on θ0 and on θᴵ to reach 90 % of its own accuracy on θ0, their
            ``ratio``, and whether that is ``at_least``.
        cost_ratio: kind → ``steps`` and ``samples`` that the worst case needs on θᴵ over θ0 to reach 90 % of θ0's.
        selectivity: model → worst case of the probes on the benign task; ``cost`` against the control. Under
            ``fine-tuning``: steps → the same of the strongest fine-tuning attackers.
        exact_steps: model → share of the excess least-squares loss left → steps of gradient descent at 1/L; of random
            weights those of the last seed.
        verdict: see :func:`hf_immunize.attacks.verdict.verdict`.
        chance: share of the largest class among the test rows.
        reference: what stands for random weights: ``scratch`` or, where none was measured, ``chance``.
        n_train, n_test: harmful rows given to attack with (validation rows among them) and to judge by.
        budgets: as given.
        notes: what a reader must know of this run, in sentences.
        uplift: what the release adds to what an attacker has anyway, see
            :func:`hf_immunize.attacks.uplift.uplift_over_ceilings`; empty in reports of before it was measured.
        flags: signs that the model hides gradients rather than holds, kind → words, see
            :mod:`hf_immunize.attacks.flags`; None where nobody looked.
        trials: see :func:`hf_immunize.attacks.trials.best_so_far`; likewise.
        seconds: attacker → what it took on all models with all seeds, on that machine.
    """

    attackers: dict[str, dict[str, Any]]
    worst_case: dict[str, dict[str, Any]]
    recovery: dict[str, dict[str, Any]]
    slowdown: dict[str, dict[str, Any]]
    cost_ratio: dict[str, dict[str, Any]]
    selectivity: dict[str, Any]
    exact_steps: dict[str, dict[str, int | None]]
    verdict: dict[str, Any]
    chance: float
    reference: str
    n_train: int
    n_test: int
    budgets: dict[str, Any]
    notes: list[str]
    uplift: dict[str, Any] = field(default_factory=dict)
    trials: dict[str, Any] = field(default_factory=dict)
    flags: dict[str, str] | None = None
    seconds: dict[str, float] = field(default_factory=dict, compare=False)

    @property
    def models(self) -> list[str]:
        """Models that were attacked, in the order of the tables."""
        known = next(iter(self.attackers.values()))["accuracy"]
        return [name for name in MODELS if name in known]

    def strongest(self, model: str) -> tuple[str, float]:
        """The attacker that reaches most on ``model`` at its largest budget, and its accuracy."""
        best = max((largest(by_model[model]) for by_model in self.worst_case.values()), key=lambda one: one["mean"])
        return best["attacker"], best["mean"]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for a record."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AttackReport:
        """The report that :meth:`to_dict` wrote, its keys in the order of the tables whatever JSON made of them."""
        known = list(ATTACKERS)

        def place(attacker: str) -> tuple[int, int]:
            kind = values["attackers"][attacker]["kind"]
            return _KINDS.index(kind), known.index(attacker) if attacker in known else len(known)

        attackers = {
            name: one | {"accuracy": _by_model(one["accuracy"])}
            for name, one in _sorted(values["attackers"], place).items()
        }
        worst = {kind: _by_model(one) for kind, one in _sorted(values["worst_case"], _KINDS.index).items()}
        cost = {
            kind: _sorted(one, ("steps", "samples").index)
            for kind, one in _sorted(values["cost_ratio"], _KINDS.index).items()
        }
        exact = {
            model: _sorted(one, lambda share: -float(share))
            for model, one in _sorted(values["exact_steps"], MODELS.index).items()
        }
        uplift = dict(values.get("uplift") or {})
        if uplift:
            uplift["worst_case"] = {
                kind: _by_model(one) for kind, one in _sorted(uplift["worst_case"], _KINDS.index).items()
            }
            single = _sorted(uplift["attackers"], place).items()
            uplift["attackers"] = {name: _by_budget(one) for name, one in single}
        trials = {
            kind: {model: _sorted(one[model], int) for model in sorted(one, key=MODELS.index)}
            for kind, one in _sorted(values.get("trials") or {}, _KINDS.index).items()
        }
        benign = dict(values["selectivity"])
        if "fine-tuning" in benign:
            benign["fine-tuning"] = _sorted(benign["fine-tuning"], int)
        ordered = {
            "attackers": attackers,
            "worst_case": worst,
            "recovery": _sorted(values["recovery"], place),
            "slowdown": _sorted(values["slowdown"], place),
            "cost_ratio": cost,
            "exact_steps": exact,
            "selectivity": benign,
            "uplift": uplift,
            "trials": trials,
        }
        return cls(**{**values, **ordered})

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Writes ``attacks.json`` into ``folder``, whole or not at all, and returns its path."""
        return save_json(Path(folder) / REPORT_NAME, self.to_dict())

    def rows(self) -> list[dict[str, Any]]:
        """For each attacker at its largest budget: name, kind, samples, steps, accuracies by model, recovery, cost."""
        found = []
        for name, one in self.attackers.items():
            last = {model: largest(by) for model, by in one["accuracy"].items()}
            recovery = self.recovery[name]
            found.append(
                {
                    "name": name,
                    "kind": one["kind"],
                    "samples": recovery["samples"],
                    "steps": recovery["steps"],
                    "accuracy": last,
                    "recovery": recovery,
                    "slowdown": self.slowdown[name],
                }
            )
        return found

    def __str__(self) -> str:
        models = self.models
        lines = ["attacker".ljust(42) + "".join(one.rjust(13) for one in models) + "   recovery   steps θᴵ/θ0"]

        def row(label: str, means: Mapping[str, Any], end: str = "") -> None:
            cells = (f"{100 * means[one]['mean']:.1f} %" if one in means else "" for one in models)
            lines.append((label.ljust(42) + "".join(cell.rjust(13) for cell in cells) + end).rstrip())

        for one in self.rows():
            row(one["name"], one["accuracy"], _share(one["recovery"]).rjust(11) + _slow(one["slowdown"]))
        for kind, by_model in self.worst_case.items():
            row(f"strongest {kind}", {model: largest(by) for model, by in by_model.items()})
        if "cost" in self.selectivity:
            row("benign task, strongest probe", self.selectivity)
        for steps, means in self.selectivity.get("fine-tuning", {}).items():
            row(f"benign task, fine-tuned for {steps} steps", means)
        lines += self._searched()
        lines += ["", self.verdict["text"], *self.notes]
        for kind, label in (("probe", "The probes"), ("fine-tuning", "The fine-tuning attackers")):
            spent = [self.seconds.get(name, 0.0) for name, one in self.attackers.items() if one["kind"] == kind]
            if any(spent):
                lines.append(f"{label} took {sum(spent):.0f} s on {len(models)} models.")
        return "\n".join(lines)

    def _searched(self) -> list[str]:
        """Uplift at each budget of steps, and where the search of each kind improved last."""
        lines = []
        for kind, by_model in self.uplift.get("worst_case", {}).items():
            said = []
            for model, by_budget in by_model.items():
                steps, cells = zip(*list(by_budget.values())[-1].items(), strict=True)
                said.append(f"{model} {' / '.join(format(100 * cell['value'], '.1f') for cell in cells)}")
            lines.append(f"uplift by {kind}, points after {' / '.join(steps)} steps: {'; '.join(said)}")
        return [*lines, *(one for kind in self.trials if (one := last_improvement(self.trials[kind])))]


def last_improvement(trials: Mapping[str, Any]) -> str | None:
    """After how many settings the search on the immunized model improved last, at its largest number of steps.

    Args:
        trials: of one kind, see :func:`hf_immunize.attacks.trials.best_so_far`.
    """
    steps, search = list(trials["immunized"].items())[-1]
    if not search["improvements"]:
        return None
    last = search["improvements"][-1]
    by = last["attacker"] + (f": {last['setting']}" if last["setting"] else "")
    return (
        f"At {int(steps):,} steps the search on the immunized model improved last with setting {last['trial']} of "
        f"{search['tried']} ({by})."
    )


def save_json(path: Path, values: Mapping[str, Any]) -> Path:
    """Writes a file whole or not at all, with its folder, and returns its path."""
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def word(count: int | None) -> str:
    """A budget of samples as a key."""
    return "all" if count is None else str(count)


def largest(by_budget: Mapping[str, Mapping[str, Any]]) -> Any:
    """What stands at the largest number of samples and of steps."""
    return list(list(by_budget.values())[-1].values())[-1]


def _sorted(values: Mapping[str, Any], key: Callable[[str], Any]) -> dict[str, Any]:
    return {name: values[name] for name in sorted(values, key=key)}


def _by_model(values: Mapping[str, Any]) -> dict[str, Any]:
    """Model → samples → steps → cell, models in their order and budgets ascending."""
    return {model: _by_budget(values[model]) for model in sorted(values, key=MODELS.index)}


def _by_budget(values: Mapping[str, Any]) -> dict[str, Any]:
    def size(budget: str) -> float:
        return float("inf") if budget == "all" else int(budget)

    return {count: _sorted(values[count], size) for count in sorted(values, key=size)}


def _share(recovery: Mapping[str, Any]) -> str:
    return "–" if recovery["value"] is None else f"{recovery['value']:.2f}"


def _slow(cost: Mapping[str, Any]) -> str:
    text = f"{cost['ratio']:.3g}" if cost["ratio"] is not None else "not reached" if not cost["reached"] else "?"
    text = f"≥ {text}" if cost.get("at_least") and cost["ratio"] is not None else text
    return text.rjust(14)
