"""RIR over the extraction that it cannot do without, and the memory that it takes for many samples."""

from __future__ import annotations

import copy
from typing import Any

import timm
import torch
from speed.timing import PeakMemory, alternate, figure
from torch import nn
from torch.utils.data import Dataset

from hf_immunize import evaluate_immunization
from hf_immunize.models.extraction import extract_features
from hf_immunize.models.trainable import select_trainable
from hf_immunize.release.measure import measure
from hf_immunize.spectra.ratio import RIR

__all__ = ["memory_of_ratio", "ratio_over_extraction"]

SIZE = 64


class Drawn(Dataset):
    """Images of noise at several scales over a brightness, each made from its number when it is asked for."""

    def __init__(self, n: int, size: int, seed: int) -> None:
        self.n, self.size, self.seed = n, size, seed

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(self.seed * 10**7 + int(index))
        image = torch.randn(3, self.size, self.size, generator=generator)
        for cells in (1, 2, 4, 8):
            coarse = torch.randn(3, cells, cells, generator=generator)
            image += coarse.repeat_interleave(self.size // cells, 1).repeat_interleave(self.size // cells, 2)
        return {"pixel_values": image}


def ratio_over_extraction(n: int, n_checked: int, repeats: int, device: torch.device) -> list[dict[str, Any]]:
    """RIR of two models, whole and with a shared frozen part, over float32 extraction of both; and both precisions."""
    torch.manual_seed(0)
    base = timm.create_model("resnet18", num_classes=10).eval().to(device)
    other, tuned = (copy.deepcopy(base) for _ in range(2))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1 + 0.1 * torch.randn(parameter.shape, generator=generator).to(device))
        select_trainable(tuned, "last", torch.randn(2, 3, SIZE, SIZE, device=device))
        for parameter in filter(lambda one: one.requires_grad, tuned.parameters()):
            parameter.mul_(1 + 0.1 * torch.randn(parameter.shape, generator=generator).to(device))

    def sets(count: int) -> tuple[Drawn, Drawn]:
        return Drawn(count // 2, SIZE, 1), Drawn(count // 2, SIZE, 2)

    def extraction(model: nn.Module) -> None:
        for one in (model, base):
            for data in sets(n):
                extract_features(one, data)

    def measured_for_a_record(model: nn.Module) -> None:
        """As `verify` does: what trained on other rows does not matter without attackers."""
        data = dict(zip(("primary", "harmful"), ((None, one) for one in sets(n)), strict=True))
        measure({"initial": base, "immunized": model}, data, attackers=None)

    times = alternate(
        {
            "extraction": lambda: extraction(other),
            "ratio": lambda: evaluate_immunization(other, base, *sets(n)),
            "shared": lambda: evaluate_immunization(tuned, base, *sets(n)),
            "record": lambda: measured_for_a_record(tuned),
        },
        repeats,
        device,
        warm_up=False,
    )
    what = "the measuring of `verify` (RIR, accuracy and spectra) with a shared frozen part"
    rows = [
        figure(
            f"{what} over float32 extraction of both: resnet18, {n} images at {SIZE} px",
            times["record"] / times["extraction"],
            "<= 0.7",
            seconds=times["record"],
        )
    ]
    for side, asked in (("ratio", "<= 1.05"), ("shared", "<= 0.65")):
        what = "RIR of two models" if side == "ratio" else "RIR with a shared frozen part"
        model = other if side == "ratio" else tuned
        report = evaluate_immunization(model, base, *sets(n_checked))
        rows.append(
            figure(
                f"{what} over float32 extraction of both: resnet18, {n} images at {SIZE} px",
                times[side] / times["extraction"],
                asked,
                seconds=times[side],
                precision=report.precision,
            )
        )
        exact = evaluate_immunization(model, base, *sets(n_checked), float64=True)
        of_groups, of_all = _differences(report, exact), _differences(report.all_samples, exact.all_samples)
        rows.append(
            figure(
                f"{what}: relative difference from float64, {n_checked} images",
                max(of_groups + of_all),
                "<= 0.001",
                bound=exact.rir_bound,
                groups=of_groups,
                all_samples=of_all,
            )
        )
    return rows


def _differences(one: RIR, other: RIR) -> list[float]:
    """Of the three ratios that are no bounds: a bound is the floor of its precision."""
    names = [name for name in ("rir", "rir_i", "rir_ii") if getattr(other, f"{name}_bound") == "exact"]
    return [abs(getattr(one, name) / getattr(other, name) - 1) for name in names]


def memory_of_ratio(n: int) -> float:
    """Peak memory of this process's own, MiB, after RIR of two small models on ``n`` images of each task."""

    def small(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 64, 5, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 3)
        ).eval()

    with PeakMemory() as peak:
        evaluate_immunization(small(0), small(1), Drawn(n, 8, 1), Drawn(n, 8, 2), max_samples=None)
    return peak.mib
