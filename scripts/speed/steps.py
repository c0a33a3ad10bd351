"""Single steps: with the regularizers over without, over the way of the published code, and of a linear extractor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
import torch
import torch.nn.functional as F
from speed.timing import alternate, figure

from hf_immunize.linear.descent import Descent
from hf_immunize.linear.task import PrimaryTask
from hf_immunize.models.frozen_prefix import FrozenPrefix
from hf_immunize.models.head import features_and_logits
from hf_immunize.models.in_parts import in_parts
from hf_immunize.models.trainable import keep_still, select_trainable
from hf_immunize.objectives.registry import get_objective
from hf_immunize.spectra.regularizers import FLOOR, features_r_ill, features_r_well
from hf_immunize.spectra.spectrum import FeatureGram, spectrum

__all__ = [
    "closed_form",
    "gram",
    "in_parts_over_whole",
    "last_block",
    "linear_step",
    "published_step",
    "training_step",
]

CLASSES = 10


def training_step(architecture: str, image_size: int, batch: int, repeats: int, device: torch.device) -> dict[str, Any]:
    """One step with the objective ``condition`` and one without, on the same primary and harmful batch."""
    step, trained = _step_of(architecture, image_size, batch, device)
    times = alternate({"with": lambda: step(True), "without": lambda: step(False)}, repeats, device)
    return figure(
        f"a step with regularizers over one without: {architecture}, {batch} + {batch} at {image_size} px",
        times["with"] / times["without"],
        "<= 1.03",
        with_ms=1e3 * times["with"],
        without_ms=1e3 * times["without"],
        trained=trained,
    )


def published_step(repeats: int, device: torch.device) -> dict[str, Any]:
    """The same step over one as the published code takes it.

    The model is in float64, there is a forward for the task loss and one for each Hessian, and `eigvalsh` of each whole
    Hessian has a gradient.
    """
    batch, image_size = 64, 64
    ours, _ = _step_of("resnet18", image_size, batch, device)
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=CLASSES).to(device).double()
    images = torch.randn(2, batch, 3, image_size, image_size, device=device, dtype=torch.float64)
    labels = torch.randint(CLASSES, (batch,), device=device)
    select_trainable(model, "last", images[0])
    model.train()
    keep_still(model)

    def theirs() -> None:
        model.zero_grad()
        loss = F.cross_entropy(model(images[0]), labels)
        values = []
        for part in images:
            features, _ = features_and_logits(model, part)
            values.append(torch.linalg.eigvalsh(features.mT @ features))
        (loss + _of_values(*values)).backward()

    times = alternate({"ours": lambda: ours(True), "published": theirs}, repeats, device)
    return figure(
        "a step as the published code takes it over ours: resnet18, 64 + 64 at 64 px",
        times["published"] / times["ours"],
        ">= 8",
        ours_ms=1e3 * times["ours"],
        published_ms=1e3 * times["published"],
    )


def linear_step(repeats: int) -> dict[str, Any]:
    """A step of Algorithm 1 at MNIST's size over the published way: two whole `eigvalsh` with gradients, and solves."""
    width, n = 784, 64
    generator = torch.Generator().manual_seed(0)
    primary, harmful = (torch.rand(n, width, generator=generator, dtype=torch.float64) for _ in range(2))
    targets = torch.randn(n, generator=generator, dtype=torch.float64)
    theta = torch.eye(width, dtype=torch.float64)
    task = PrimaryTask.of(primary, targets, "l2").scaled()
    rows = harmful / torch.linalg.matrix_norm(harmful, 2)
    objective = get_objective("condition", lambda_primary=1.0, lambda_harmful=1e-2, scale_free=False)
    own = Descent(task, task.fit(theta), rows, None, objective, "constant", "descent", spectrum(task.x), spectrum(rows))
    omega = task.fit(theta)
    inputs = [one.mT @ one + 1e-6 * torch.eye(width, dtype=torch.float64) for one in (task.x, rows)]

    def ours() -> None:
        gradient = own.measure(theta)
        assert gradient is not None
        own.step(theta, gradient, 0.2, 1)

    def published() -> None:
        leaf = theta.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad((task.x @ leaf @ omega - task.y).square().mean() / 2, leaf)
        for kernel, side in zip(inputs, (_well, _ill), strict=True):
            value = side(torch.linalg.eigvalsh(leaf.mT @ kernel @ leaf))
            (of_side,) = torch.autograd.grad(value, leaf)
            gradient = gradient + torch.linalg.solve(kernel, of_side)

    times = alternate({"ours": ours, "published": published}, repeats, torch.device("cpu"))
    return figure(
        "a linear step the published way over ours: 784 features, 64 samples",
        times["published"] / times["ours"],
        ">= 20",
        ours_ms=1e3 * times["ours"],
        published_ms=1e3 * times["published"],
    )


def closed_form(n: int, d: int, repeats: int, device: torch.device) -> dict[str, Any]:
    """R_ill and R_well of n × d features, forward and backward, against autograd through a d × d `eigvalsh`."""
    torch.manual_seed(0)
    features = torch.randn(n, d, device=device, requires_grad=True)

    def ours() -> None:
        features.grad = None
        (features_r_ill(features) + features_r_well(features)).backward()

    def autograd() -> None:
        features.grad = None
        rows = features.double()
        values = torch.linalg.eigvalsh(rows.mT @ rows)[-min(n, d) :]
        shares = values / values.mean()
        ((1 + shares / FLOOR).log10().mean() - shares.log10().mean()).backward()

    times = alternate({"closed form": ours, "autograd": autograd}, repeats, device)
    return figure(
        f"autograd over the closed form: R_ill + R_well of {n} x {d} features",
        times["autograd"] / times["closed form"],
        "",
        closed_form_ms=1e3 * times["closed form"],
        autograd_ms=1e3 * times["autograd"],
    )


def gram(rows: int, d: int, repeats: int, device: torch.device) -> dict[str, Any]:
    """A streamed float64 Gram of float32 features."""
    features = torch.randn(rows, d, device=device)
    times = alternate({"update": lambda: FeatureGram(d).update(features)}, repeats, device)
    return figure(f"FeatureGram.update, {rows} x {d}: rows a second", rows / times["update"], "")


def _step_of(
    architecture: str, image_size: int, batch: int, device: torch.device
) -> tuple[Callable[[bool], None], int]:
    """A step with or without regularizers, and how many parameters it trains."""
    torch.manual_seed(0)
    model = timm.create_model(architecture, num_classes=CLASSES, **_sized(architecture, image_size)).to(device)
    images = torch.randn(2 * batch, 3, image_size, image_size, device=device)
    labels = torch.randint(CLASSES, (batch,), device=device)
    selection = select_trainable(model, "last", images)
    model.train()
    keep_still(model)
    objective = get_objective("condition")

    def step(regularized: bool) -> None:
        model.zero_grad()
        features, logits = features_and_logits(model, images)
        loss = F.cross_entropy(logits[:batch], labels)
        if regularized:
            loss = loss + sum(objective(features[:batch], features[batch:]).values())
        else:
            # The harmful rows stay in the graph, as the comparison asks for the same two batches.
            loss = loss + 0.0 * features[batch:].sum()
        loss.backward()

    return step, selection.n_parameters


def _sized(architecture: str, image_size: int) -> dict[str, Any]:
    return {"img_size": image_size} if architecture.startswith("vit") and image_size != 224 else {}


def _well(values: torch.Tensor) -> torch.Tensor:
    return values[-1].square() / 2 - values.square().mean() / 2


def _ill(values: torch.Tensor) -> torch.Tensor:
    return 1 / (values.square().mean() / 2 - values[0].square() / 2)


def _of_values(primary: torch.Tensor, harmful: torch.Tensor) -> torch.Tensor:
    return _well(primary) + _ill(harmful)


def last_block(architecture: str, image_size: int, batch: int, repeats: int, device: torch.device) -> dict[str, Any]:
    """What trains behind the frozen part, forwards and backwards: with the tokens that are read over with all."""
    sized = {"img_size": image_size} if image_size != 224 else {}
    model = timm.create_model(architecture, num_classes=5, **sized).to(device)
    images = torch.randn(batch, 3, image_size, image_size, device=device)
    select_trainable(model, "last", images)
    prefix = FrozenPrefix(model, images)
    activations = prefix(images)

    def run(every_token: bool) -> None:
        with prefix.bypassed(every_token=every_token):
            features_and_logits(model, activations)[1].sum().backward()

    times = alternate({"read": lambda: run(False), "all": lambda: run(True)}, repeats, device)
    what = f"the last block with the tokens that are read over with all: {architecture}, {batch} at {image_size} px"
    return figure(what, times["read"] / times["all"], "")


def in_parts_over_whole(architecture: str, repeats: int, device: torch.device) -> dict[str, Any]:
    """Features of 64 images of 224 px a few at a time, as they are measured, over all of them together."""
    model = timm.create_model(architecture, num_classes=5).to(device).eval()
    images = torch.randn(64, 3, 224, 224, device=device)

    @torch.no_grad()
    def run(parts: list[dict[str, Any]]) -> None:
        for one in parts:
            features_and_logits(model, one)

    whole = {"pixel_values": images}
    times = alternate({"parts": lambda: run(list(in_parts(whole))), "whole": lambda: run([whole])}, repeats, device)
    what = f"features of 64 images of 224 px in parts over all together: {architecture}"
    return figure(what, times["parts"] / times["whole"], "")
