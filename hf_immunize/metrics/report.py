"""RIR_θ0 of groups and of all samples, in numbers and in words, from what was measured of two models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from hf_immunize.errors import InputError
from hf_immunize.metrics.peers import Measured
from hf_immunize.spectra.ratio import RIR, SIGN, Bound, relative_immunization_ratio

__all__ = ["Protocol", "RIRReport", "report_of", "rir_report"]

#: The four spectra of a report.
SPECTRA = ("immunized_harmful", "initial_harmful", "immunized_primary", "initial_primary")


@dataclass(frozen=True)
class Protocol:
    """The paper's protocol for deep nets (section 5.3): groups of samples, so that r is the group size.

    Args:
        groups: how many groups are drawn.
        group_size: samples a group, drawn without replacement within a group.
        seed: of the draw.
    """

    groups: int = 20
    group_size: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if self.groups < 1 or self.group_size < 2:
            raise InputError(
                f"The protocol needs groups ≥ 1 and group_size ≥ 2, got {self.groups} and {self.group_size}."
            )

    def indices(self, n_samples: int) -> list[torch.Tensor]:
        """The rows of each group; smaller groups where there are fewer samples than ``group_size``."""
        if n_samples < 2:
            raise InputError(f"RIR needs two or more samples, got {n_samples}; the paper takes groups of 100.")
        generator = torch.Generator().manual_seed(self.seed)
        size = min(self.group_size, n_samples)
        # Copies: a slice would keep the whole permutation.
        return [torch.randperm(n_samples, generator=generator)[:size].clone() for _ in range(self.groups)]


@dataclass(frozen=True)
class RIRReport(RIR):
    """RIR_θ0 in both protocols.

    ``rir``, ``rir_i``, ``rir_ii`` are means over the groups of the paper's protocol, the headline for deep nets; the
    four spectra and ``all_samples`` are those of all samples together. ``precision`` says for each of the four how many
    groups were measured in which precision, and in which all samples were.
    """

    groups: tuple[RIR, ...] = field(default=(), repr=False)
    all_samples: RIR | None = None
    protocol: Protocol = Protocol()
    precision: dict[str, dict[str, Any]] = field(default_factory=dict)
    primary_accuracy: dict[str, float] = field(default_factory=dict)

    @property
    def dtype(self) -> str:
        """The precision of every group and of all samples; ``"float32, float64 where needed"`` where there are both."""
        found = {dtype for one in self.precision.values() for dtype in (*one["groups"], one["all_samples"])}
        return found.pop() if len(found) == 1 else "float32, float64 where needed"

    @property
    def precision_limited(self) -> bool:
        """True where θ0's spectrum of a group runs into the floor of rounding."""
        return any(group.precision_limited for group in self.groups)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for a record; spreads are standard deviations over groups of one model, not over seeds."""
        assert self.all_samples is not None
        sizes = self._group_sizes()
        ranks = {name: min(getattr(group, name).rank for group in self.groups) for name in SPECTRA}
        return {
            "protocol": {
                "groups": self.protocol.groups,
                "group_size": sizes["harmful"],
                # Where the tasks have unlike many samples, and fewer than were asked for.
                **({} if len(set(sizes.values())) == 1 else {"group_size_primary": sizes["primary"]}),
                # The primary task may have more samples than the harmful one, and then larger groups.
                "group_size_asked": self.protocol.group_size,
                "seed": self.protocol.seed,
                "dtype": self.dtype,
            },
            **{name: _statistics(self.groups, name) for name in ("rir", "rir_i", "rir_ii")},
            "ranks": ranks,
            "precision_limited": self.precision_limited,
            "precision": self.precision,
            "all_samples": self.all_samples.to_dict(),
            "n_harmful": self.all_samples.initial_harmful.n_samples,
            "n_primary": self.all_samples.initial_primary.n_samples,
        }

    def _group_sizes(self) -> dict[str, int]:
        first = self.groups[0]
        return {"harmful": first.initial_harmful.n_samples, "primary": first.initial_primary.n_samples}

    def _groups_told(self) -> str:
        """Sizes of the groups; those that hold all samples are one and the same, of which there is no spread."""
        assert self.all_samples is not None
        sizes, n = self._group_sizes(), len(self.groups)
        whole = {
            "harmful": self.all_samples.initial_harmful.n_samples,
            "primary": self.all_samples.initial_primary.n_samples,
        }
        told = " and ".join(f"{size} {task}" for task, size in sizes.items())
        told = f"{n} groups of {told if len(set(sizes.values())) > 1 else sizes['harmful']} samples"
        same = [
            f"{task} ({part})" for task, part in (("harmful", "i"), ("primary", "ii")) if sizes[task] == whole[task]
        ]
        if same and n > 1:
            told += f"; all groups are the same rows of the {' and the '.join(same)} data, so that ± there is no spread"
        return told

    def __str__(self) -> str:
        parts = []
        for label, name in (("RIR", "rir"), ("(i)", "rir_i"), ("(ii)", "rir_ii")):
            one = _statistics(self.groups, name)
            parts.append(f"{label} {SIGN[one['bound']]}{one['mean']:.4g} ± {one['spread']:.2g}")
        return (
            f"{', '.join(parts)} (mean and spread over {self._groups_told()}"
            f"{'; limited by precision' if self.precision_limited else ''}); all samples: {self.all_samples}"
        )


def rir_report(
    immunized_harmful: torch.Tensor,
    initial_harmful: torch.Tensor,
    immunized_primary: torch.Tensor,
    initial_primary: torch.Tensor,
    *,
    protocol: Protocol,
) -> RIRReport:
    """Both protocols from four feature matrices; rows of the same task must be the same samples in the same order."""

    def measured(**features: torch.Tensor) -> dict[str, Measured]:
        return {name: Measured.of(one, protocol.indices(len(one))) for name, one in features.items()}

    tasks = {
        "harmful": measured(immunized=immunized_harmful, initial=initial_harmful),
        "primary": measured(immunized=immunized_primary, initial=initial_primary),
    }
    return report_of(tasks, protocol)


def report_of(
    measured: Mapping[str, Mapping[str, Measured]],
    protocol: Protocol,
    *,
    model: str = "immunized",
    primary_accuracy: Mapping[str, float | None] | None = None,
) -> RIRReport:
    """The report on one of the models that were measured beside θ0.

    Args:
        measured: ``harmful`` and ``primary`` → name of a model → what was measured of it; ``initial`` is θ0.
        protocol: by which the groups were drawn.
        model: name of the one to report on.
        primary_accuracy: by name.
    """
    four = [measured[task][name] for task in ("harmful", "primary") for name in (model, "initial")]
    for one, other in (four[:2], four[2:]):
        widths = one.whole.n_features, other.whole.n_features
        if widths[0] != widths[1]:
            raise InputError(
                f"The model has features of width {widths[0]} and its base model of width {widths[1]}: they are of "
                "different architectures, and their condition numbers cannot be compared."
            )
    per_group = tuple(
        relative_immunization_ratio(*spectra) for spectra in zip(*(one.groups for one in four), strict=True)
    )
    everything = relative_immunization_ratio(*(one.whole for one in four))
    means = {name: _statistics(per_group, name) for name in ("rir", "rir_i", "rir_ii")}
    return RIRReport(
        **{name: getattr(everything, name) for name in SPECTRA},
        **{name: one["mean"] for name, one in means.items()},
        **{f"{name}_bound": one["bound"] for name, one in means.items()},
        groups=per_group,
        all_samples=everything,
        protocol=protocol,
        precision={name: one.precision for name, one in zip(SPECTRA, four, strict=True)},
        primary_accuracy={name: value for name, value in (primary_accuracy or {}).items() if value is not None},
    )


def _statistics(groups: tuple[RIR, ...], name: str) -> dict[str, Any]:
    values = torch.tensor([getattr(group, name) for group in groups], dtype=torch.float64)
    bounds = {getattr(group, f"{name}_bound") for group in groups} - {"exact"}
    bound: Bound = "exact" if not bounds else bounds.pop() if len(bounds) == 1 else "undetermined"
    return {
        "mean": values.mean().item(),
        "spread": values.std(correction=1).item() if len(groups) > 1 else 0.0,
        "median": values.median().item(),
        "bound": bound,
    }
