"""A small network with batch normalisation, and the view of a step of it."""

from __future__ import annotations

import contextlib

import torch
from torch import nn
from torch.func import functional_call

from hf_immunize.objectives.objective import StepView

STEP = 1e-6


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(5, 6), nn.BatchNorm1d(6)
        self.last, self.score = nn.Linear(6, 4), nn.Linear(4, 3)

    def body(self, images):
        return self.last(torch.tanh(self.norm(self.first(images))))

    def forward(self, images):
        return self.body(images)


def network():
    torch.manual_seed(0)
    model = Network().double().eval()
    model.norm.running_mean.normal_()
    return model


def batch(seed, n=12):
    images = torch.randn(n, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return {"pixel_values": images, "labels": torch.arange(n) % 3}


def view(model, primary=None, harmful=None, seed=0):
    def features(parameters, one):
        return functional_call(model, dict(parameters), (one["pixel_values"],))

    def redrawn(of):
        generator = torch.Generator().manual_seed(of)
        return {
            f"last.{name}": torch.randn(one.shape, generator=generator, dtype=one.dtype)
            for name, one in model.last.named_parameters()
        }

    @contextlib.contextmanager
    def batch_statistics(names):
        moving = any(one.startswith("norm.") for one in names)
        model.norm.training, model.norm.track_running_stats = moving, not moving
        yield
        model.norm.training, model.norm.track_running_stats = False, True

    primary, harmful = primary or batch(1), harmful or batch(2)
    parameters = dict(model.named_parameters())
    both = (features(parameters, primary), features(parameters, harmful)[:0])
    return StepView(
        parameters,
        primary,
        harmful,
        *both,
        {},
        features,
        seed=seed,
        last_block=frozenset(name for name in parameters if name.startswith(("last", "score"))),
        redrawn=redrawn,
        batch_statistics=batch_statistics,
    )
