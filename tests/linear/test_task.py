"""The primary task of a linear model, against autograd."""

import numpy as np
import pytest
import torch
from tables import data

from hf_immunize.linear.immunize import immunize_linear
from hf_immunize.objectives.condition import Condition


@pytest.mark.parametrize("loss", ["l2", "logistic", "classes"])
def test_task_gradients_equal_autograd(loss):
    x_p, y, x_h, _ = data(seed=5)
    labels = {"l2": y, "logistic": (y > 0).astype(int), "classes": np.digitize(y, [-0.5, 0.5])}[loss]
    result = immunize_linear(
        x_p, labels, x_h, loss="l2" if loss == "l2" else "logistic", steps=1, learning_rate=1e-2,
        objective=Condition(0.0, 0.0), initial_omega=np.ones((6, 3) if loss == "classes" else 6),
    )  # fmt: skip
    x = torch.from_numpy(x_p / np.linalg.norm(x_p, 2))
    theta = torch.eye(6, dtype=torch.float64, requires_grad=True)
    outputs = x @ theta @ torch.ones((6, 3) if loss == "classes" else 6, dtype=torch.float64)
    target = torch.from_numpy(labels)
    if loss == "l2":
        value = 0.5 * (outputs - target).square().mean()
    elif loss == "logistic":
        value = torch.nn.functional.binary_cross_entropy_with_logits(outputs, target.double())
    else:
        value = torch.nn.functional.cross_entropy(outputs, target)
    (gradient,) = torch.autograd.grad(value, theta)
    assert torch.allclose(result.theta, torch.eye(6) - 1e-2 * gradient, rtol=1e-10, atol=1e-12)
    assert result.history["loss"][0] == pytest.approx(value.item(), rel=1e-10)
