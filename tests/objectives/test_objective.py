"""What all objectives have in common: parts, weights, gradients."""

import numpy as np
import pytest
import torch
from spectral import SHAPES, features

from hf_immunize.objectives.condition import Condition
from hf_immunize.objectives.opt_kappa import OptKappa
from hf_immunize.objectives.registry import OBJECTIVES, get_objective


def numeric_gradient(function, x, step=1e-6):
    gradient = torch.zeros_like(x)
    for index in np.ndindex(*x.shape):
        up, down = x.detach().clone(), x.detach().clone()
        up[index] += step
        down[index] -= step
        gradient[index] = (function(up) - function(down)) / (2 * step)
    return gradient


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "objective",
    [Condition(1.0, 2.0, scale_free=False), OptKappa(1.0, 2.0), OptKappa(1.0, 2.0, log=True)],
    ids=repr,
)
def test_gradients_equal_finite_differences_on_both_sides(shape, objective):
    x, z = features(shape, 5), features(shape, 6)
    sum(objective(x, z).values()).backward()
    for leaf, rest in ((x, lambda v: objective(v, z.detach())), (z, lambda v: objective(x.detach(), v))):
        expected = numeric_gradient(lambda v, rest=rest: float(sum(rest(v).values())), leaf)
        assert torch.allclose(leaf.grad, expected, rtol=2e-4, atol=2e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(
    "objective", [Condition(0.3, 2.0, scale_free=False), OptKappa(0.3, 2.0), OptKappa(0.3, 2.0, log=True)], ids=repr
)
def test_spectral_parts_are_the_call_as_a_function_of_eigenvalues(objective):
    x, z = features((9, 4), 7), features((8, 4), 8)
    called = objective(x, z)
    values_p, values_h = (torch.linalg.eigvalsh(f.detach().T @ f.detach()) for f in (x, z))
    parts = objective.spectral_parts(values_p, values_h)
    assert parts.keys() == called.keys()
    for name, (value, slope) in parts.items():
        assert value.item() == pytest.approx(called[name].item(), rel=1e-9)
        side = values_p if name in ("r_well", "kappa_primary") else values_h
        step = 1e-6 * side[0]
        for index in range(4):
            moved = []
            for sign in (1, -1):
                changed = side.clone()
                changed[index] += sign * step
                pair = (changed, values_h) if side is values_p else (values_p, changed)
                moved.append(objective.spectral_parts(*pair)[name][0])
            assert slope[index].item() == pytest.approx(((moved[0] - moved[1]) / (2 * step)).item(), rel=1e-3, abs=1e-7)


@pytest.mark.parametrize("name", sorted(name for name, one in OBJECTIVES.items() if not one.sees_model))
def test_weights_scale_the_parts_and_zero_leaves_them_out(name):
    x, z, labels = features((6, 4), 20), features((6, 4), 21), torch.tensor([0, 1, 0, 1, 1, 0])
    one = get_objective(name, lambda_primary=1.0, lambda_harmful=1.0)(x, z, labels)
    three = get_objective(name, lambda_primary=3.0, lambda_harmful=3.0)(x, z, labels)
    for part in one:
        assert three[part].item() == pytest.approx(3 * one[part].item(), rel=1e-9)
    none = get_objective(name, lambda_primary=0.0, lambda_harmful=0.0)
    assert none(x, z, labels) == {}
    assert not none.uses_primary
    assert not none.uses_harmful


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf"), "1", True])
@pytest.mark.parametrize("which", ["lambda_primary", "lambda_harmful"])
def test_weights_are_checked_by_name(which, bad):
    for one in OBJECTIVES.values():
        with pytest.raises(ValueError, match=which):
            one(**{which: bad})
