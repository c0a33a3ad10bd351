"""Two-layer heads side by side, against torch's own modules and gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from planted import planted
from torch import nn

from hf_immunize.attacks.two_layers import BATCH, HIDDEN, WEIGHT_DECAY, two_layer_descent


def test_heads_side_by_side_are_each_head_by_itself_as_torch_trains_it():
    rows, labels, held, _ = planted(150, 9)
    rows, held = rows.float(), held.float()
    rates = (1e-3, 1e-2)
    found = {}
    for step, logits in two_layer_descent(rows, labels, 4, rates, (1, 7, 30), seed=5):
        found[step] = logits(held).clone()
    for place, rate in enumerate(rates):
        generator = torch.Generator().manual_seed(5)
        model = nn.Sequential(nn.Linear(9, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 4))
        with torch.no_grad():
            model[0].weight.copy_((torch.randn(9, HIDDEN, generator=generator) * (2 / 9) ** 0.5).mT)
            model[2].weight.copy_((torch.randn(HIDDEN, 4, generator=generator) * (1 / HIDDEN) ** 0.5).mT)
            model[0].bias.zero_()
            model[2].bias.zero_()
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=WEIGHT_DECAY)
        order = []
        for step in range(1, 31):
            order = order or list(torch.randperm(150, generator=generator).split(BATCH))
            picked = order.pop()
            optimizer.zero_grad()
            F.cross_entropy(model(rows[picked]), labels[picked]).backward()
            optimizer.step()
            if step in found:
                torch.testing.assert_close(found[step][place], model(held).detach(), rtol=1e-3, atol=1e-4)
