"""Algorithm 1, its step rules, K⁻¹, the closed-form optimum and the descent curves, against NumPy and SciPy."""

import math
import warnings

import numpy as np
import pytest
import scipy.linalg
import torch

from hf_immunize.linear.curves import descent_curves
from hf_immunize.linear.immunize import DivergenceError, immunize_linear
from hf_immunize.linear.inputs import dependent_columns
from hf_immunize.linear.optimum import optimal_linear_extractor
from hf_immunize.linear.preconditioning import PreconditionedIdentity
from hf_immunize.objectives.condition import Condition
from hf_immunize.objectives.imma import IMMA
from hf_immunize.objectives.opt_kappa import OptKappa
from hf_immunize.spectra.ratio import relative_immunization_ratio


def data(n_p=40, n_h=50, d=6, seed=0, log_scale=1.0):
    generator = np.random.default_rng(seed)
    scales = np.exp(log_scale * generator.standard_normal((2, d)))
    x_p, x_h = (generator.standard_normal((n, d)) * s for n, s in zip((n_p, n_h), scales, strict=True))
    return x_p, generator.standard_normal(n_p), x_h, generator.standard_normal(n_h)


def kappa(x):
    values = np.linalg.svd(x, compute_uv=False) ** 2
    return values[0] / values[-1]


def numpy_rir(theta, x_p, x_h, start=None):
    start = np.eye(*theta.shape) if start is None else start
    return kappa(x_h @ theta) / kappa(x_h @ start) / (kappa(x_p @ theta) / kappa(x_p @ start))


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


@pytest.mark.parametrize("shape", [(9, 4), (4, 9)])
def test_identity_forward_and_inverse_backward_on_the_input_side(shape):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    k = (x.T @ x) / torch.linalg.matrix_norm(x, 2) ** 2
    inverse = torch.from_numpy(np.linalg.pinv(k.numpy(), rcond=1e-10, hermitian=True))
    weight = torch.randn(shape[1], 3, generator=generator, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(shape[1], 3, generator=generator, dtype=torch.float64)
    out = PreconditionedIdentity(x)(weight)
    assert torch.equal(out, weight)
    out.backward(upstream)
    assert torch.allclose(weight.grad, inverse @ upstream, rtol=1e-6)

    layer = torch.nn.Linear(shape[1], 3).double()
    plain = torch.autograd.grad(layer(x).square().sum(), layer.weight)[0]
    torch.nn.utils.parametrize.register_parametrization(layer, "weight", PreconditionedIdentity(x, layout="out_in"))
    layer(x).square().sum().backward()
    assert torch.allclose(layer.parametrizations.weight.original.grad, plain @ inverse, rtol=1e-6)


def test_identity_refuses_the_wrong_side_of_a_non_square_weight():
    identity = PreconditionedIdentity(torch.eye(4))
    with pytest.raises(ValueError, match="input side"):
        identity(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="layout"):
        PreconditionedIdentity(torch.eye(4), layout="rows")


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


@pytest.mark.parametrize("seed", range(6))
def test_the_ceiling_is_that_of_the_generalised_eigenproblem_and_is_attained(seed):
    generator = np.random.default_rng(seed)
    d = int(generator.integers(2, 9))
    x_p, _, x_h, _ = data(d + int(generator.integers(1, 20)), d + int(generator.integers(1, 20)), d, seed=seed)
    theta, ceiling = optimal_linear_extractor(x_p, x_h)
    values = scipy.linalg.eigh(x_h.T @ x_h, x_p.T @ x_p, eigvals_only=True)
    expected = values[-1] / values[0] * kappa(x_p) / kappa(x_h)
    assert ceiling == pytest.approx(expected, rel=1e-8)
    assert numpy_rir(theta.numpy(), x_p, x_h) == pytest.approx(ceiling, rel=1e-8)
    assert np.allclose(theta.numpy().T @ x_p.T @ x_p @ theta.numpy(), np.eye(d), atol=1e-9)
    for _ in range(50):
        assert numpy_rir(generator.standard_normal((d, d)), x_p, x_h) <= ceiling * (1 + 1e-9)


@pytest.mark.parametrize("harmful_sees_more", [False, True])
def test_the_ceiling_on_the_span_of_singular_data(harmful_sees_more):
    x_p, _, x_h, _ = data(20, 25, 5, seed=12)
    generator = np.random.default_rng(0)
    mixing = generator.standard_normal((7, 7))
    extra = generator.standard_normal((25, 1)) if harmful_sees_more else np.zeros((25, 1))
    wide_p = np.hstack([x_p, np.zeros((20, 2))]) @ mixing
    wide_h = np.hstack([x_h, extra, np.zeros((25, 1))]) @ mixing
    optimum = optimal_linear_extractor(wide_p, wide_h)
    theta = optimum.theta.numpy()
    assert np.linalg.matrix_rank(theta) == 7
    assert optimum.bounded != harmful_sees_more
    assert ("no upper bound" in optimum.meaning) == harmful_sees_more
    assert optimum.shared == 5
    rir = relative_immunization_ratio(wide_h @ theta, wide_h, wide_p @ theta, wide_p)
    assert rir.rir_bound == "exact"
    assert rir.rir == pytest.approx(optimum.ceiling, rel=1e-6)
    # The shared directions once the harmful-only ones are regressed out of the harmful data.
    h = x_h - extra @ np.linalg.lstsq(extra, x_h, rcond=None)[0] if harmful_sees_more else x_h
    values = scipy.linalg.eigh(h.T @ h, x_p.T @ x_p, eigvals_only=True)
    assert optimum.spread == pytest.approx(values[-1] / values[0], rel=1e-6)
    if not harmful_sees_more:
        for _ in range(30):
            one = generator.standard_normal((7, 7))
            trial = relative_immunization_ratio(wide_h @ one, wide_h, wide_p @ one, wide_p)
            assert trial.rir <= optimum.ceiling * (1 + 1e-6)


def test_singular_data_are_immunized_on_the_span_with_ranks_kept():
    x_p, y, x_h, _ = data(seed=13)
    x_p, x_h = (np.hstack([x, x[:, :1] + x[:, 1:2]]) for x in (x_p, x_h))
    with pytest.warns(UserWarning, match="combination: 6"):
        result = immunize_linear(x_p, y, x_h, step_rule="natural", learning_rate=0.3, steps=400)
    assert result.rir.immunized_primary.rank == result.rir.initial_primary.rank == 6
    assert result.rir.immunized_harmful.rank == 6
    assert result.rir.rir_bound == "exact"
    assert 0.9 < result.share_of_ceiling <= 1 + 1e-6


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


def test_bad_tables_are_named():
    x_p, y, x_h, _ = data(seed=15)
    with pytest.raises(ValueError, match="6 columns and x_harmful 5"):
        immunize_linear(x_p, y, x_h[:, :5])
    holes = x_p.copy()
    holes[[0, 3], 2] = np.nan
    with pytest.raises(ValueError, match=r"x_primary has NaN or infinite cells in 1 column\(s\).* 2 \(2\)"):
        immunize_linear(holes, y, x_h)
    with pytest.raises(ValueError, match="40 rows"):
        immunize_linear(x_p, y[:-1], x_h)
    with pytest.raises(TypeError, match="real numbers"):
        immunize_linear(np.full((4, 2), "a"), y[:4], x_h)
    with pytest.raises(ValueError, match="class numbers"):
        immunize_linear(x_p, y, x_h, loss="logistic")


def test_constant_duplicate_and_dependent_columns_are_named():
    pandas = pytest.importorskip("pandas")
    x_p, y, x_h, _ = data(seed=16)
    frame = pandas.DataFrame(x_p, columns=list("abcdef"))
    frame["flat"], frame["twin"], frame["sum"] = 1.0, frame["b"], frame["a"] - 2 * frame["c"]
    other = pandas.DataFrame(np.hstack([x_h, x_h[:, :3] ** 2]), columns=frame.columns)
    with pytest.warns(UserWarning, match="constant: flat; duplicate: twin; combination: sum") as caught:
        immunize_linear(frame, y, other, steps=0)
    assert not any(str(one.message).startswith("x_harmful") for one in caught)
    found = dependent_columns(torch.from_numpy(frame.to_numpy(copy=True)))
    assert found == {"constant": [6], "duplicate": [7], "combination": [8]}


def test_full_rank_data_raise_no_warning():
    x_p, y, x_h, _ = data(seed=17)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        immunize_linear(x_p, y, x_h, steps=1)


def test_a_diverging_step_size_stops_and_the_suggested_one_works():
    x_p, y, x_h, _ = data(seed=18)
    with pytest.raises(DivergenceError, match=r"step size 20 diverged at step \d+.*learning_rate=2\b"):
        immunize_linear(x_p, y, x_h, learning_rate=20.0, lambda_harmful=1e-3)
    with pytest.raises(DivergenceError, match=r"learning_rate=0\.05\b") as caught:
        immunize_linear(x_p, y, x_h, learning_rate=0.5, lambda_harmful=1.0)
    assert "natural" in str(caught.value)
    natural = immunize_linear(x_p, y, x_h, learning_rate=0.3, step_rule="natural", steps=200)
    assert math.isfinite(natural.rir.rir)


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
    ],
)
def test_options_are_checked_by_name(options, message):
    x_p, y, x_h, y_h = data(seed=19)
    with pytest.raises(ValueError, match=message):
        immunize_linear(x_p, y, x_h, y_harmful=y_h, **options)
