"""The paper's objective, against NumPy and its formula."""

import pytest
import torch
from spectral import SHAPES, features, numpy_spectrum

from hf_immunize.objectives.condition import Condition, RIllOnly
from hf_immunize.spectra.regularizers import features_r_ill, features_r_well


@pytest.mark.parametrize("shape", SHAPES)
def test_condition_raw_is_the_papers_formula(shape):
    x, z = features(shape, 1), features((9, shape[1]), 2)
    parts = Condition(0.7, 1.3, scale_free=False)(x, z)
    p, h = numpy_spectrum(x), numpy_spectrum(z)
    well = p[0] ** 2 / 2 - (p**2).sum() / (2 * len(p))
    ill = 1 / ((h**2).sum() / (2 * len(h)) - h[-1] ** 2 / 2)
    assert parts["r_well"].item() == pytest.approx(0.7 * well, rel=1e-9)
    assert parts["r_ill"].item() == pytest.approx(1.3 * ill, rel=1e-9)


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


def test_r_ill_only_is_condition_without_the_primary_part():
    x, z = features((6, 4), 11), features((6, 4), 12)
    parts = RIllOnly(lambda_primary=5.0, lambda_harmful=2.0)(x, z)
    assert list(parts) == ["r_ill"]
    assert parts["r_ill"].item() == Condition(1.0, 2.0)(x, z)["r_ill"].item()
