"""Objectives against NumPy, finite differences and the definitions in their papers."""

import math

import numpy as np
import pytest
import torch

from hf_immunize.objectives.condition import Condition, RIllOnly
from hf_immunize.objectives.imma import IMMA
from hf_immunize.objectives.objective import Objective
from hf_immunize.objectives.opt_kappa import OptKappa
from hf_immunize.objectives.registry import OBJECTIVES, get_objective
from hf_immunize.spectra.regularizers import features_r_ill, features_r_well

SHAPES = [(7, 4), (4, 7), (5, 5), (12, 3)]


def features(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, requires_grad=True)


def numpy_spectrum(x):
    return np.linalg.svd(x.detach().numpy(), compute_uv=False) ** 2


def numeric_gradient(function, x, step=1e-6):
    gradient = torch.zeros_like(x)
    for index in np.ndindex(*x.shape):
        up, down = x.detach().clone(), x.detach().clone()
        up[index] += step
        down[index] -= step
        gradient[index] = (function(up) - function(down)) / (2 * step)
    return gradient


@pytest.mark.parametrize("shape", SHAPES)
def test_condition_raw_is_the_papers_formula(shape):
    x, z = features(shape, 1), features((9, shape[1]), 2)
    parts = Condition(0.7, 1.3, scale_free=False)(x, z)
    p, h = numpy_spectrum(x), numpy_spectrum(z)
    well = p[0] ** 2 / 2 - (p**2).sum() / (2 * len(p))
    ill = 1 / ((h**2).sum() / (2 * len(h)) - h[-1] ** 2 / 2)
    assert parts["r_well"].item() == pytest.approx(0.7 * well, rel=1e-9)
    assert parts["r_ill"].item() == pytest.approx(1.3 * ill, rel=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("log", [False, True])
def test_opt_kappa_is_the_difference_of_condition_numbers(shape, log):
    x, z = features(shape, 3), features((6, shape[1]), 4)
    parts = OptKappa(0.5, 2.0, log=log)(x, z)
    kappas = [values[0] / values[-1] for values in (numpy_spectrum(x), numpy_spectrum(z))]
    expected = [math.log(kappa) for kappa in kappas] if log else kappas
    assert parts["kappa_primary"].item() == pytest.approx(0.5 * expected[0], rel=1e-8)
    assert parts["kappa_harmful"].item() == pytest.approx(-2.0 * expected[1], rel=1e-8)


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


@pytest.mark.parametrize("scale_free", [False, True])
def test_spectral_parts_give_the_gradient_of_the_call(scale_free):
    objective = Condition(0.3, 2.0, scale_free)
    x, z = features((9, 4), 7), features((8, 4), 8)
    sum(objective(x, z).values()).backward()
    pairs = [torch.linalg.eigh(f.detach().T @ f.detach()) for f in (x, z)]
    parts = objective.spectral_parts(pairs[0][0], pairs[1][0])
    for leaf, (_, vectors), name in ((x, pairs[0], "r_well"), (z, pairs[1], "r_ill")):
        expected = 2 * leaf.detach() @ vectors @ torch.diag(parts[name][1]) @ vectors.T
        assert torch.allclose(leaf.grad, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("scale_free", [False, True])
def test_condition_hands_scale_free_on(scale_free):
    x, z = features((9, 4), 7), features((8, 4), 8)
    parts = Condition(0.3, 2.0, scale_free)(x, z)
    assert parts["r_well"].item() == pytest.approx(0.3 * features_r_well(x, scale_free).item(), rel=1e-12)
    assert parts["r_ill"].item() == pytest.approx(2.0 * features_r_ill(z, scale_free).item(), rel=1e-12)


def test_a_step_of_opt_kappa_lowers_kappa_of_the_primary_and_raises_that_of_the_harmful_features():
    x, z = features((20, 5), 9), features((20, 5), 10)
    sum(OptKappa(log=True)(x, z).values()).backward()
    before = [np.linalg.cond(f.detach().numpy()) for f in (x, z)]
    after = [np.linalg.cond((f - 1e-3 * f.grad).detach().numpy()) for f in (x, z)]
    assert after[0] < before[0]
    assert after[1] > before[1]


def test_r_ill_only_is_condition_without_the_primary_part():
    x, z = features((6, 4), 11), features((6, 4), 12)
    parts = RIllOnly(lambda_primary=5.0, lambda_harmful=2.0)(x, z)
    assert list(parts) == ["r_ill"]
    assert parts["r_ill"].item() == Condition(1.0, 2.0)(x, z)["r_ill"].item()


def adapted_by_autograd(x, labels, steps, step):
    """The inner problem of IMMA by autograd of its loss, with the graph kept through every step."""
    regression = labels.is_floating_point()
    targets = labels.reshape(len(x), -1) if regression else labels
    width = targets.shape[1] if regression else int(labels.max()) + 1

    def loss(head):
        outputs = x @ head
        if regression:
            return (outputs - targets).square().sum() / (2 * len(x))
        return torch.nn.functional.cross_entropy(outputs, targets)

    head = torch.zeros(x.shape[1], width, dtype=x.dtype, requires_grad=True)
    for _ in range(steps):
        head = head - step * torch.autograd.grad(loss(head), head, create_graph=True)[0]
    return loss(head)


@pytest.mark.parametrize(
    "labels",
    [torch.linspace(-1, 1, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2, 2, 1])],
    ids=["regression", "classes"],
)
@pytest.mark.parametrize("steps", [1, 4])
def test_imma_value_and_gradient_go_through_the_adaptation(labels, steps):
    x = features((8, 3), 13)
    part = IMMA(lambda_harmful=1.7, inner_steps=steps, inner_learning_rate=0.1)(x.detach(), x, labels)["imma"]
    (gradient,) = torch.autograd.grad(part, x)
    reference = -1.7 * adapted_by_autograd(x, labels, steps, 0.1)
    (expected,) = torch.autograd.grad(reference, x)
    assert part.item() == pytest.approx(reference.item(), rel=1e-12)
    assert torch.allclose(gradient, expected, rtol=1e-9, atol=1e-12)


def test_imma_differs_from_the_first_order_gradient_at_the_adapted_head():
    x, y = features((8, 3), 14), torch.linspace(-1, 1, 8, dtype=torch.float64)
    (full,) = torch.autograd.grad(IMMA(inner_steps=3, inner_learning_rate=0.1)(x, x, y)["imma"], x)
    head = torch.zeros(3, dtype=torch.float64)
    for _ in range(3):
        head = head - 0.1 * x.detach().T @ (x.detach() @ head - y) / 8
    (stopped,) = torch.autograd.grad(-(x @ head - y).square().sum() / 16, x)
    assert (full - stopped).norm() > 0.1 * full.norm()


def test_a_step_against_imma_raises_the_harmful_loss_after_adaptation():
    x, labels = features((30, 4), 15), torch.randint(0, 3, (30,), generator=torch.Generator().manual_seed(0))
    objective = IMMA(inner_steps=5, inner_learning_rate=0.2)
    before = objective.adapted_loss(x, labels)
    before.neg().backward()
    assert objective.adapted_loss((x - 0.1 * x.grad).detach(), labels) > before


def test_imma_default_inner_step_does_not_depend_on_the_features_scale():
    x, y = features((10, 4), 16).detach(), torch.linspace(0, 1, 10, dtype=torch.float64)
    objective = IMMA(inner_steps=6)
    assert objective.adapted_loss(100 * x, y).item() == pytest.approx(objective.adapted_loss(x, y).item(), rel=1e-9)


@pytest.mark.parametrize("shape", [(10, 4), (4, 10)])
@pytest.mark.parametrize("classes", [False, True])
def test_imma_default_inner_step_is_one_over_the_largest_curvature(shape, classes):
    x = features(shape, 22).detach()
    y = torch.arange(shape[0]) % 2 if classes else torch.linspace(0, 1, shape[0], dtype=torch.float64)
    largest = numpy_spectrum(x)[0] / shape[0] * (0.5 if classes else 1.0)
    default, given = IMMA(inner_steps=3), IMMA(inner_steps=3, inner_learning_rate=1 / largest)
    assert default.adapted_loss(x, y).item() == pytest.approx(given.adapted_loss(x, y).item(), rel=1e-9)


def test_imma_asks_for_labels_and_checks_them():
    x = features((4, 2), 17)
    with pytest.raises(ValueError, match="needs the labels"):
        IMMA()(x, x)
    with pytest.raises(ValueError, match="as many labels"):
        IMMA()(x, x, torch.zeros(3))
    with pytest.raises(ValueError, match="n_classes"):
        IMMA(n_classes=2)(x, x, torch.tensor([0, 1, 2, 1]))
    with pytest.raises(ValueError, match="inner_steps"):
        IMMA(inner_steps=0)
    with pytest.raises(ValueError, match="inner_learning_rate"):
        IMMA(inner_learning_rate=-1.0)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_every_objective_is_built_alike_and_gives_scalars_that_reach_the_harmful_features(name):
    objective = get_objective(name, lambda_primary=1.0, lambda_harmful=0.5, scale_free=True)
    x, z = features((6, 4), 18), features((6, 4), 19)
    parts = objective(x.float(), z.float(), torch.tensor([0, 1, 0, 1, 1, 0]))
    assert isinstance(objective, Objective)
    assert objective.name == name
    assert all(part.ndim == 0 and torch.isfinite(part) for part in parts.values())
    sum(parts.values()).backward()
    assert z.grad.abs().max() > 0
    assert (x.grad is not None and bool(x.grad.abs().max() > 0)) == objective.uses_primary


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
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


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'condition'"):
        get_objective("conditon")
