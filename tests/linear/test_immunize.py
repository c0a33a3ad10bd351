"""Algorithm 1 and its options, against NumPy."""

import numpy as np
import pytest
import torch
from tables import data, kappa, numpy_rir

from hf_immunize.linear.immunize import immunize_linear
from hf_immunize.objectives.imma import IMMA


def numpy_algorithm_1(x_p, y, x_h, lambda_p, lambda_h, eta, steps, d_hid, left=True):
    """Algorithm 1 written out from the paper; ``left=False`` puts K⁻¹ on the output side."""
    k_p, k_h = (x.T @ x / np.linalg.norm(x, 2) ** 2 for x in (x_p, x_h))
    x = x_p / np.linalg.norm(x_p, 2)
    theta = np.eye(x.shape[1], d_hid)
    omega = np.linalg.lstsq(x @ theta, y, rcond=None)[0]

    def grad_well(s):
        values, vectors = np.linalg.eigh(s)
        return values[-1] * np.outer(vectors[:, -1], vectors[:, -1]) - s / len(values)

    def grad_ill(s):
        values, vectors = np.linalg.eigh(s)
        gap = (values**2).sum() / (2 * len(values)) - values[0] ** 2 / 2
        return (values[0] * np.outer(vectors[:, 0], vectors[:, 0]) - s / len(values)) / gap**2

    def inverse(k, gradient):
        return np.linalg.solve(k, gradient) if left else gradient @ np.linalg.inv(k)

    for _ in range(steps):
        error = (x @ theta @ omega - y) / len(y)
        g_omega, g_theta = theta.T @ x.T @ error, np.outer(x.T @ error, omega)
        g_theta = g_theta + lambda_p * inverse(k_p, 2 * k_p @ theta @ grad_well(theta.T @ k_p @ theta))
        g_theta = g_theta + lambda_h * inverse(k_h, 2 * k_h @ theta @ grad_ill(theta.T @ k_h @ theta))
        omega, theta = omega - eta * g_omega, theta - eta * g_theta
    return theta


@pytest.mark.parametrize(("d", "d_hid"), [(6, 6), (5, 3), (7, 4)])
def test_algorithm_1_equals_a_numpy_transcription(d, d_hid):
    x_p, y, x_h, _ = data(d=d, seed=d, log_scale=0.3)
    result = immunize_linear(x_p, y, x_h, lambda_harmful=1e-4, learning_rate=0.05, steps=12, n_hidden=d_hid)
    expected = numpy_algorithm_1(x_p, y, x_h, 1.0, 1e-4, 0.05, 12, d_hid)
    assert result.theta.shape == (d, d_hid)
    assert np.allclose(result.theta.numpy(), expected, rtol=1e-7, atol=1e-9)
    assert result.rir.rir == pytest.approx(numpy_rir(expected, x_p, x_h), rel=1e-6)


def test_the_output_side_of_theta_is_the_wrong_side_for_the_inverse():
    x_p, y, x_h, _ = data(seed=3, log_scale=0.3)
    right = immunize_linear(x_p, y, x_h, lambda_harmful=1e-4, learning_rate=0.05, steps=12).theta.numpy()
    wrong = numpy_algorithm_1(x_p, y, x_h, 1.0, 1e-4, 0.05, 12, 6, left=False)
    assert not np.allclose(right, wrong, rtol=1e-3)
    with pytest.raises(ValueError, match=r"mismatch|size|matmul"):
        numpy_algorithm_1(x_p, y, x_h, 1.0, 1e-4, 0.05, 1, 3, left=False)


def test_history_ends_where_the_result_is():
    x_p, y, x_h, _ = data(seed=6)
    result = immunize_linear(x_p, y, x_h, steps=7, learning_rate=0.05)
    theta = result.theta.numpy()
    history = result.history
    assert {"loss", "kappa_primary", "kappa_harmful", "rir", "r_well", "r_ill", "step_size"} <= history.keys()
    assert [len(history[name]) for name in ("loss", "rir", "r_ill", "step_size")] == [8, 8, 8, 7]
    assert history["rir"][0] == pytest.approx(1.0)
    assert history["rir"][-1] == pytest.approx(numpy_rir(theta, x_p, x_h), rel=1e-6)
    assert history["kappa_primary"][-1] == pytest.approx(kappa(x_p @ theta), rel=1e-6)
    assert history["kappa_harmful"][-1] == pytest.approx(kappa(x_h @ theta), rel=1e-6)
    best = np.linalg.lstsq(x_p, y, rcond=None)[0]
    assert result.initial_primary_loss == pytest.approx(0.5 * np.mean((x_p @ best - y) ** 2), rel=1e-9)
    assert result.primary_loss == pytest.approx(0.5 * np.mean((x_p @ theta @ result.omega.numpy() - y) ** 2), rel=1e-9)


def test_algorithm_1_does_not_depend_on_the_units_of_the_features():
    x_p, y, x_h, _ = data(seed=10)
    one = immunize_linear(x_p, y, x_h, steps=20, learning_rate=0.05)
    other = immunize_linear(1000 * x_p, y, 0.01 * x_h, steps=20, learning_rate=0.05)
    assert other.rir.rir == pytest.approx(one.rir.rir, rel=1e-6)


def test_imma_trains_theta_by_autograd_of_its_own_loss():
    x_p, y, x_h, y_h = data(seed=11)
    objective = IMMA(inner_steps=3)
    start = np.linalg.lstsq(x_p / np.linalg.norm(x_p, 2), y, rcond=None)[0]
    result = immunize_linear(
        x_p, y, x_h, y_harmful=y_h, objective=objective, steps=1, learning_rate=0.1, initial_omega=start
    )
    theta = torch.eye(6, dtype=torch.float64, requires_grad=True)
    rows = torch.from_numpy(x_h / np.linalg.norm(x_h, 2))
    (gradient,) = torch.autograd.grad(objective(theta, rows @ theta, torch.from_numpy(y_h))["imma"], theta)
    assert torch.allclose(result.theta, torch.eye(6) - 0.1 * gradient, rtol=1e-8, atol=1e-10)
    with pytest.raises(ValueError, match="y_harmful"):
        immunize_linear(x_p, y, x_h, objective=objective, steps=1)


def test_singular_data_are_immunized_on_the_span_with_ranks_kept():
    x_p, y, x_h, _ = data(seed=13)
    x_p, x_h = (np.hstack([x, x[:, :1] + x[:, 1:2]]) for x in (x_p, x_h))
    with pytest.warns(UserWarning, match="combination: 6"):
        result = immunize_linear(x_p, y, x_h, step_rule="natural", learning_rate=0.3, steps=400)
    assert result.rir.immunized_primary.rank == result.rir.initial_primary.rank == 6
    assert result.rir.immunized_harmful.rank == 6
    assert result.rir.rir_bound == "exact"
    assert 0.9 < result.share_of_ceiling <= 1 + 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"steps": -1}, "steps"),
        ({"n_hidden": 0}, "n_hidden"),
        ({"step_rule": "newton"}, "step_rule"),
        ({"head": "none"}, "head"),
        ({"loss": "hinge"}, "loss"),
        ({"objective": "condtion"}, "Did you mean 'condition'"),
        ({"objective": "imma", "step_rule": "natural"}, "natural"),
        ({"initial_omega": np.ones(3)}, "initial_omega"),
        ({"objective": "lto"}, "features alone"),
        ({"objective": "rep_noise"}, "features alone"),
    ],
)
def test_options_are_checked_by_name(options, message):
    x_p, y, x_h, y_h = data(seed=19)
    with pytest.raises(ValueError, match=message):
        immunize_linear(x_p, y, x_h, y_harmful=y_h, **options)
