"""Where float32 is too coarse for a condition number, and what one pass collects."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch

from hf_immunize import features_and_logits, spectrum
from hf_immunize.metrics.precision import OnePass, Values, is_too_coarse
from hf_immunize.metrics.report import Protocol


def of(values, n=50, d=20, live=20, dtype=torch.float32):
    return Values(torch.tensor(values, dtype=torch.float64), n, d, live, dtype)


def spectrum_of(values):
    return spectrum(torch.diag(torch.tensor(values, dtype=torch.float64)))


def test_what_decides_is_the_singular_value_at_the_rank_of_theta_zero():
    eps = torch.finfo(torch.float32).eps
    near, far = 1_000 * eps, 10_000 * eps
    assert not is_too_coarse(of([1.0, far], live=2))
    assert is_too_coarse(of([1.0, near], live=2))
    # In float64 the same value is far above the floor.
    assert not is_too_coarse(of([1.0, near], live=2, dtype=torch.float64))
    # A column of zeros is no direction that rounding could hide.
    assert not is_too_coarse(of([1.0, far, 0.0], live=2))
    assert is_too_coarse(of([1.0, far, 0.0], live=3))
    # Of θᴵ only the value at θ0's rank counts.
    assert not is_too_coarse(of([1.0, far, near], live=3), spectrum_of([1.0, 0.5]))
    assert is_too_coarse(of([1.0, far, near], live=3), spectrum_of([1.0, 0.5, 0.2]))
    # Channels that died: what stood there is zero in any precision, and no second pass brings it back.
    dead = of([1.0, far, 0.0], live=2)
    assert not is_too_coarse(dead, spectrum_of([1.0, 0.5, 0.2]))
    bound, is_bound = dead.spectrum(by_rounding=True).log_condition_number_at(3)
    assert is_bound
    # Rounding may hide what lies up to 30 floors high.
    assert bound == pytest.approx(-2 * np.log(30 * dead.floor), rel=1e-12)
    # Live channels that are alike are another matter: rounding makes constants of what differs by less.
    assert is_too_coarse(of([1.0, far, 0.0], live=3), spectrum_of([1.0, 0.5, 0.2]))
    assert not is_too_coarse(of([0.0], live=0))


def test_spectra_of_rounding_and_of_rank():
    found = of([1.0, 1e-3, 1e-9], n=10_000)
    # max(n, d)·eps32 is 1.2e-3: nothing below it counts, unless what decides is known to lie far above the rounding.
    assert found.spectrum().rank == 1
    assert found.spectrum(by_rounding=True).rank == 2
    assert found.spectrum(by_rounding=True).condition_number == pytest.approx(1e6)


def test_one_pass_collects_the_groups_the_whole_and_the_accuracy():
    rows = torch.randn(60, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logits, labels = rows[:, :3], torch.arange(60) % 3
    groups = Protocol(4, 10).indices(60)
    seen = OnePass(groups, torch.float64)
    numbers = torch.arange(60)
    for part in numbers.split(13):
        seen.update(part, rows[part], logits[part], labels[part])
    for group, found in zip(groups, seen.groups(), strict=True):
        np.testing.assert_allclose(found.values, np.linalg.svd(rows[group], compute_uv=False), rtol=1e-12)
    np.testing.assert_allclose(seen.whole().values, np.linalg.svd(rows, compute_uv=False), rtol=1e-12)
    assert seen.accuracy == pytest.approx(float((logits.argmax(1) == labels).double().mean()))
    some = OnePass(groups[:1], torch.float64, whole=False)
    picked = groups[0].sort().values
    some.update(picked, rows[picked], logits[picked], None)
    (found,) = some.groups()
    np.testing.assert_allclose(found.values, np.linalg.svd(rows[groups[0]], compute_uv=False), rtol=1e-12)
    assert some.accuracy is None
    some.update(picked, rows[picked], logits[picked], torch.full((10,), 3))
    with pytest.raises(ValueError, match="labels from 3 to 3, 3 classes"):
        assert some.accuracy


def test_more_samples_let_smaller_values_be_trusted_down_to_a_limit():
    eps = torch.finfo(torch.float32).eps
    for n, live, factor in ((100, 400, 250), (2_500, 400, 50), (10**6, 400, 30)):
        assert of([1.0, 0.0], n=n, live=live).trusted == pytest.approx(factor * eps)


@pytest.mark.parametrize("n", [40, 120, 600])
@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224", "mobilenetv3_small_100", "convnext_atto"])
def test_a_trusted_value_is_known_to_a_few_ten_thousandths(name, n):
    """Features in float32 and in float64: the floor is no guess."""
    torch.manual_seed(0)
    model = timm.create_model(name, **({"img_size": 32} if name.startswith("vit") else {})).eval()
    images = torch.randn(n, 3, 32, 32) + torch.randn(n, 3, 1, 1)
    with torch.no_grad():
        single = features_and_logits(model, images)[0]
        double = features_and_logits(model.double(), images.double())[0]
    values = [torch.linalg.svdvals(one.double()) for one in (single, double)]
    found = Values(values[0], *single.shape, int(single.ne(0).any(0).sum()), torch.float32)
    trusted = values[0] >= found.trusted
    assert trusted.sum() >= 1
    error = ((values[0] - values[1]) / values[1])[trusted].abs().max()
    # κ has twice the error of a singular value, and RIR four κ.
    assert error < 1e-3 / 8
