"""Figures of a GPU: a step of a large model, what share of the card it uses, and RIR over extraction.

Nothing here needs pictures, or a package that reads them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import timm
import torch
import torch.nn.functional as F
from speed.timing import alternate, figure
from torch import nn
from torch.utils.data import Dataset
from torch.utils.flop_counter import FlopCounterMode

from hf_immunize.metrics.peers import Peers
from hf_immunize.models.extraction import extract_features
from hf_immunize.models.head import features_and_logits
from hf_immunize.models.trainable import keep_still, select_trainable
from hf_immunize.objectives.registry import get_objective
from hf_immunize.spectra.eigen import GramEigen

__all__ = ["Size", "eigenproblem", "matrix_rate", "mixed_step", "ratio_of_two"]

CLASSES = 10
#: Architecture, image size, primary images a step, images of each task that RIR is measured on, width of a product.
Size = tuple[str, int, int, int, int]


def matrix_rate(size: Size, repeats: int, device: torch.device) -> float:
    """Floating-point operations a second of a large product in bfloat16."""
    width = size[-1]
    one, other = (torch.randn(width, width, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = alternate({"product": lambda: [one @ other for _ in range(10)]}, repeats, device)
    return 10 * 2 * width**3 / times["product"]


def mixed_step(selection: str, size: Size, repeats: int, device: torch.device) -> list[dict[str, Any]]:
    """A step in bfloat16 as the Trainer takes it (autocast, AdamW), with the regularizers over without."""
    architecture, image_size, batch, *_ = size
    model = _made(architecture, image_size).to(device)
    images = torch.randn(2 * batch, 3, image_size, image_size, device=device)
    labels = torch.randint(CLASSES, (batch,), device=device)
    trained = select_trainable(model, selection, images[:2])
    model.train()
    keep_still(model)
    objective = get_objective("condition")
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-5)

    def step(regularized: bool, few: int | None = None) -> None:
        n = few or batch
        with torch.autocast(device.type, torch.bfloat16):
            features, logits = features_and_logits(model, torch.cat([images[:n], images[batch : batch + n]]))
        loss = F.cross_entropy(logits[:n].float(), labels[:n])
        if regularized:
            loss = loss + sum(objective(features[:n], features[n:]).values())
        else:
            # The harmful rows stay in the graph, as the comparison asks for the same two batches.
            loss = loss + 0.0 * features[n:].sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    with FlopCounterMode(display=False) as counter:
        step(False, 2)
    operations = counter.get_total_flops() * batch / 2
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    times = alternate({"with": lambda: step(True), "without": lambda: step(False)}, repeats, device)
    named = f"{architecture} in bf16, {batch} + {batch} at {image_size} px, {selection} trains"
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    rate = matrix_rate(size, 3, device)
    return [
        figure(
            f"a step with regularizers over one without: {named}",
            times["with"] / times["without"],
            "<= 1.05",
            with_ms=1e3 * times["with"],
            without_ms=1e3 * times["without"],
            trained=trained.n_parameters,
            peak_gib=peak,
        ),
        figure(f"images a second of such steps: {named}", 2 * batch / times["with"], ""),
        figure(
            f"share of the measured bf16 matrix rate: {named}",
            operations / times["with"] / rate,
            "",
            tera_operations_a_step=operations / 1e12,
            tera_operations_a_second_of_products=rate / 1e12,
        ),
    ]


def eigenproblem(size: Size, repeats: int, device: torch.device) -> list[dict[str, Any]]:
    """Milliseconds of the eigenproblem that a regularizer adds, on the device and on the CPU with the way there."""
    _, _, batch, _, _ = size
    features = torch.randn(batch, 768, device=device)
    sides: dict[str, Callable[[], Any]] = {
        "device": lambda: GramEigen.of(features),
        "CPU and back": lambda: GramEigen.of(features.cpu()).vectors.to(device),
    }
    times = alternate(sides, repeats, device)
    return [
        figure(f"milliseconds of an eigenproblem of {batch} x 768 features, on the {where}", 1e3 * seconds, "")
        for where, seconds in times.items()
    ]


class _Shifted(Dataset):
    """Images that differ, out of a few: shifted by their number."""

    def __init__(self, n: int, image_size: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.n, self.few = n, torch.randn(64, 3, image_size, image_size, generator=generator)
        coarse = torch.randn(64, 3, 4, 4, generator=generator)
        self.few += 2 * F.interpolate(coarse, size=(image_size, image_size))

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.few[index % 64].roll(index // 64, -1)}


def ratio_of_two(size: Size, repeats: int, device: torch.device) -> list[dict[str, Any]]:
    """RIR of two models, whole and with a shared frozen part, over float32 extraction of both."""
    architecture, image_size, _, n, _ = size
    base = _made(architecture, image_size).eval().to(device)
    other, tuned = (copy.deepcopy(base) for _ in range(2))
    select_trainable(tuned, "last", torch.randn(2, 3, image_size, image_size, device=device))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in [*other.parameters(), *(one for one in tuned.parameters() if one.requires_grad)]:
            parameter.mul_(1 + 0.1 * torch.randn(parameter.shape, generator=generator).to(device))
    tasks = {"harmful": _Shifted(n, image_size, 1), "primary": _Shifted(n, image_size, 2)}
    groups = [torch.randperm(n, generator=generator)[:100].clone() for _ in range(20)]
    precision: dict[str, Any] = {}

    def extraction() -> None:
        for model in (other, base):
            for data in tasks.values():
                extract_features(model, data)

    def ratio(name: str, model: nn.Module) -> None:
        peers = Peers({"initial": base, "immunized": model}, tasks["harmful"], device=device)
        for task, data in tasks.items():
            for whose, found in peers.measured(data, task, groups, None).items():
                precision[f"{name}, {whose}, {task}"] = found.precision

    times = alternate(
        {
            "extraction": extraction,
            "RIR of two models": lambda: ratio("RIR of two models", other),
            "RIR with a shared frozen part": lambda: ratio("RIR with a shared frozen part", tuned),
        },
        repeats,
        device,
    )
    return [
        figure(
            f"{name} over float32 extraction of both: {architecture}, {n} + {n} images at {image_size} px",
            times[name] / times["extraction"],
            asked,
            seconds=times[name],
            extraction_s=times["extraction"],
            precision={key: one for key, one in precision.items() if key.startswith(name)},
        )
        for name, asked in (("RIR of two models", "<= 1.05"), ("RIR with a shared frozen part", "<= 0.65"))
    ]


def _made(architecture: str, image_size: int) -> nn.Module:
    torch.manual_seed(0)
    sized = {"img_size": image_size} if architecture.startswith("vit") and image_size != 224 else {}
    return timm.create_model(architecture, num_classes=CLASSES, **sized)
