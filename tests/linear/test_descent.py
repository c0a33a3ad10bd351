"""The natural step, and steps that diverge."""

import math

import numpy as np
import pytest
from tables import data

from hf_immunize.linear.immunize import DivergenceError, immunize_linear
from hf_immunize.objectives.opt_kappa import OptKappa


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", [(40, 50, 6), (30, 30, 12)])
def test_the_natural_step_comes_close_to_the_ceiling_and_keeps_the_primary_loss(seed, shape):
    x_p, y, x_h, _ = data(*shape, seed=seed, log_scale=1.5)
    result = immunize_linear(x_p, y, x_h, step_rule="natural", learning_rate=0.3, lambda_harmful=0.01, steps=500)
    assert 0.99 < result.share_of_ceiling <= 1 + 1e-9
    assert 0.5 < np.linalg.norm(x_p @ result.theta.numpy(), 2) / np.linalg.norm(x_p, 2) < 2
    assert result.primary_loss == pytest.approx(result.initial_primary_loss, rel=1e-6)


def test_two_natural_steps_equal_a_numpy_transcription_up_to_the_scale_that_the_head_takes_over():
    x_p, y, x_h, _ = data(seed=20)
    x, z = x_p / np.linalg.norm(x_p, 2), x_h / np.linalg.norm(x_h, 2)
    theta, omega = np.eye(6), np.linalg.lstsq(x, y, rcond=None)[0]
    for step in range(2):
        eta = 0.2 * (0.5 * (1 + math.cos(math.pi * step / 2))) ** 2
        values, u = np.linalg.eigh(theta.T @ x.T @ x @ theta)
        slope_p = -values / 6 + values[-1] * (np.arange(6) == 5)
        values, v = np.linalg.eigh(theta.T @ z.T @ z @ theta)
        slope_h = -values / 6 + values[0] * (np.arange(6) == 0)
        error = (x @ theta @ omega - y) / 40
        move = np.outer(x.T @ error, omega) + theta @ (
            u @ np.diag(2 * slope_p / abs(slope_p).max()) @ u.T
            + 0.1 * v @ np.diag(2 * slope_h / abs(slope_h).max()) @ v.T
        )
        omega, theta = omega - eta * theta.T @ x.T @ error, theta - eta * move
    result = immunize_linear(
        x_p, y, x_h, step_rule="natural", head="descent", learning_rate=0.2, lambda_harmful=0.1, steps=2
    )
    ratio = result.theta.numpy() / theta
    assert np.allclose(ratio, ratio[0, 0], rtol=1e-6)
    assert ratio[0, 0] > 1
    assert result.history["loss"][-1] == pytest.approx(0.5 * np.mean((x @ theta @ omega - y) ** 2), rel=1e-9)


def test_the_natural_step_is_not_worse_than_log_opt_kappa_with_adam():
    x_p, y, x_h, _ = data(60, 60, 10, seed=9, log_scale=1.5)
    ours = immunize_linear(x_p, y, x_h, step_rule="natural", learning_rate=0.3, steps=500)
    rates = (1e-3, 3e-3, 1e-2)
    theirs = [
        immunize_linear(x_p, y, x_h, objective=OptKappa(log=True), step_rule="adam", learning_rate=rate, steps=500)
        for rate in rates
    ]
    assert ours.rir.rir > 0.99 * max(one.rir.rir for one in theirs)


def test_a_diverging_step_size_stops_and_the_suggested_one_works():
    x_p, y, x_h, _ = data(seed=18)
    with pytest.raises(DivergenceError, match=r"step size 20 diverged at step \d+.*learning_rate=2\b"):
        immunize_linear(x_p, y, x_h, learning_rate=20.0, lambda_harmful=1e-3)
    with pytest.raises(DivergenceError, match=r"learning_rate=0\.05\b") as caught:
        immunize_linear(x_p, y, x_h, learning_rate=0.5, lambda_harmful=1.0)
    assert "natural" in str(caught.value)
    natural = immunize_linear(x_p, y, x_h, learning_rate=0.3, step_rule="natural", steps=200)
    assert math.isfinite(natural.rir.rir)
