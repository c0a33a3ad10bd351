"""Descent curves in closed form, against gradient descent."""

import numpy as np
import pytest
from tables import data

from hf_immunize.linear.curves import descent_curves


def test_descent_curves_equal_gradient_descent():
    x, y, _, _ = data(seed=14)
    curves = descent_curves(x, y, 15)
    best = np.linalg.lstsq(x, y, rcond=None)[0]
    w, floor = np.zeros(6), ((x @ best - y) ** 2).sum()
    for step in range(16):
        assert curves.norm_ratio[step] == pytest.approx(((w - best) ** 2).sum() / (best**2).sum(), rel=1e-8)
        assert curves.excess_loss[step] == pytest.approx((((x @ w - y) ** 2).sum() - floor) / ((y**2).sum() - floor), rel=1e-8)  # fmt: skip  # noqa: E501
        w = w - x.T @ (x @ w - y) / np.linalg.norm(x, 2) ** 2
    with pytest.raises(ValueError, match="nothing to fit"):
        descent_curves(x, np.zeros(40))
