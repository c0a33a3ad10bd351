"""The closed-form optimum, against SciPy."""

import numpy as np
import pytest
import scipy.linalg
from tables import data, kappa, numpy_rir

from hf_immunize.linear.optimum import optimal_linear_extractor
from hf_immunize.spectra.ratio import relative_immunization_ratio


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
