"""Every objective by its name."""

from __future__ import annotations

from typing import Any

from hf_immunize.errors import InputError, did_you_mean
from hf_immunize.objectives.condition import Condition, RIllOnly, RWellOnly
from hf_immunize.objectives.imma import IMMA
from hf_immunize.objectives.lto import LTO
from hf_immunize.objectives.objective import Objective
from hf_immunize.objectives.opt_kappa import OptKappa, OptLogKappa
from hf_immunize.objectives.purge import Purge
from hf_immunize.objectives.rep_noise import RepNoise
from hf_immunize.objectives.ridge import Ridge
from hf_immunize.objectives.simulated_attackers import SimulatedAttackers

__all__ = ["OBJECTIVES", "get_objective", "objective_named"]


#: Every objective by its name.
OBJECTIVES: dict[str, type[Objective]] = {
    one.name: one
    for one in (
        *(Condition, RIllOnly, RWellOnly, OptKappa, OptLogKappa, IMMA),
        *(Ridge, RepNoise, LTO, SimulatedAttackers, Purge),
    )
}


def objective_named(name: str) -> type[Objective]:
    """The objective called ``name``.

    Raises:
        ValueError: no such objective; the message names the nearest one.
    """
    if name not in OBJECTIVES:
        hint = did_you_mean(name, OBJECTIVES, cutoff=0.0)
        raise InputError(f"Unknown objective {name!r}.{hint} Known: {', '.join(sorted(OBJECTIVES))}.")
    return OBJECTIVES[name]


def get_objective(name: str, **kwargs: Any) -> Objective:
    """Builds the objective called ``name`` with the given options.

    Raises:
        ValueError: no such objective; the message names the nearest one.
        TypeError: an option that this objective does not have.
    """
    return objective_named(name)(**kwargs)
