"""RIR_θ0 while a run goes on: the figures that `evaluate_immunization` gives, as metrics of the Trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import Subset

from hf_immunize.metrics.report import RIRReport, rir_report
from hf_immunize.models.extraction import extract_features
from hf_immunize.training.arguments import ImmunizationArguments
from hf_immunize.training.theta_zero import ThetaZero

__all__ = ["RatioInMidRun"]

TASKS = ("primary", "harmful")


class RatioInMidRun:
    """Measures a model against θ0, whose features are remembered as long as nothing that they depend on changes."""

    def __init__(self) -> None:
        # What θ0's features depend on, and the features: data sets by themselves, kept here, and numbers.
        self._known: list[tuple[tuple[Any, ...], dict[str, torch.Tensor]]] = []

    def metrics(
        self,
        model: nn.Module,
        theta_zero: ThetaZero,
        data: Mapping[str, Any],
        args: ImmunizationArguments,
        *,
        accelerator: Accelerator,
        collate: Callable[[list[Any]], Any],
    ) -> dict[str, float]:
        """``rir``, ``rir_i``, ``rir_ii`` with spreads over groups, smallest ranks, and how many groups have bounds.

        Args:
            model: unwrapped, as it is now.
            theta_zero: what it was.
            data: ``primary`` and ``harmful`` → model inputs.
            args: of the run.
            accelerator: every process must call this.
            collate: from samples to a batch.
        """
        protocol = args.protocol

        def features() -> dict[str, torch.Tensor]:
            return {
                task: extract_features(
                    model,
                    _drawn(data[task], args.rir_max_samples, protocol.seed),
                    batch_size=args.per_device_eval_batch_size,
                    device=args.device,
                    collate=collate,
                    accelerator=accelerator,
                    num_workers=args.dataloader_num_workers,
                ).features
                for task in TASKS
            }

        current = features()
        depends_on = (*(data[task] for task in TASKS), theta_zero, args.rir_max_samples)
        initial = next((kept for key, kept in self._known if _same(key, depends_on)), None)
        if initial is None:
            with theta_zero.put_back(model):
                initial = features()
            self._known.append((depends_on, initial))
        report = rir_report(
            current["harmful"], initial["harmful"], current["primary"], initial["primary"], protocol=protocol
        )
        return _as_metrics(report)


def _as_metrics(report: RIRReport) -> dict[str, float]:
    values = report.to_dict()
    found = {name: values[name]["mean"] for name in ("rir", "rir_i", "rir_ii")}
    found |= {f"{name}_spread": values[name]["spread"] for name in ("rir", "rir_i", "rir_ii")}
    found |= {f"rir_rank_{name}": float(rank) for name, rank in values["ranks"].items()}
    found["rir_groups_with_bounds"] = float(sum(group.rir_bound != "exact" for group in report.groups))
    return found


def _drawn(data: Any, most: int, seed: int) -> Any:
    rows = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    return Subset(data, rows[:most].tolist())


def _same(first: tuple[Any, ...], second: tuple[Any, ...]) -> bool:
    return all(
        one is other or (isinstance(one, int) and one == other) for one, other in zip(first, second, strict=True)
    )
