"""The difference of condition numbers as an objective."""

import math

import numpy as np
import pytest
from spectral import SHAPES, features, numpy_spectrum

from hf_immunize.objectives.opt_kappa import OptKappa


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("log", [False, True])
def test_opt_kappa_is_the_difference_of_condition_numbers(shape, log):
    x, z = features(shape, 3), features((6, shape[1]), 4)
    parts = OptKappa(0.5, 2.0, log=log)(x, z)
    kappas = [values[0] / values[-1] for values in (numpy_spectrum(x), numpy_spectrum(z))]
    expected = [math.log(kappa) for kappa in kappas] if log else kappas
    assert parts["kappa_primary"].item() == pytest.approx(0.5 * expected[0], rel=1e-8)
    assert parts["kappa_harmful"].item() == pytest.approx(-2.0 * expected[1], rel=1e-8)


def test_a_step_of_opt_kappa_lowers_kappa_of_the_primary_and_raises_that_of_the_harmful_features():
    x, z = features((20, 5), 9), features((20, 5), 10)
    sum(OptKappa(log=True)(x, z).values()).backward()
    before = [np.linalg.cond(f.detach().numpy()) for f in (x, z)]
    after = [np.linalg.cond((f - 1e-3 * f.grad).detach().numpy()) for f in (x, z)]
    assert after[0] < before[0]
    assert after[1] > before[1]
