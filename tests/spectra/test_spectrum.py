"""The spectrum of features: against NumPy, at its floors, and what cannot have one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from spectral import CASES, with_singular_values

from hf_immunize.spectra.spectrum import FeatureGram, condition_number, spectrum

EPS = np.finfo(np.float64).eps


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", CASES)
def test_spectrum_is_numpys_squared_singular_values_on_the_span(case, seed):
    features = CASES[case](seed)
    values = np.linalg.svd(features.numpy(), compute_uv=False)
    rank = np.linalg.matrix_rank(features.numpy())
    result = spectrum(features)
    assert result.rank == rank
    assert (result.n_samples, result.n_features) == tuple(features.shape)
    np.testing.assert_allclose(result.eigenvalues, values[:rank][::-1] ** 2, rtol=1e-11)
    assert result.condition_number == pytest.approx((values[0] / values[rank - 1]) ** 2, rel=1e-10)
    assert result.log_condition_number == pytest.approx(2 * np.log(values[0] / values[rank - 1]), abs=1e-10)
    assert condition_number(features) == result.condition_number
    assert not result.precision_limited


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e-1, 3.0, 1e3, 1e30])
@pytest.mark.parametrize("case", CASES)
def test_scaling_and_permuting_change_no_condition_number_and_no_rank(case, scale):
    features = CASES[case](5)
    generator = torch.Generator().manual_seed(1)
    changed = (scale * features)[torch.randperm(features.shape[0], generator=generator)]
    before, after = spectrum(features), spectrum(changed)
    assert after.rank == before.rank
    assert after.condition_number == pytest.approx(before.condition_number, rel=1e-9)
    grams = FeatureGram(features.shape[1]), FeatureGram(features.shape[1])
    for gram, rows in zip(grams, (features, changed), strict=True):
        gram.update(rows)
    before, after = (gram.spectrum() for gram in grams)
    assert after.rank == before.rank
    # A Gram knows λ_min to about eps·λ_max, so that κ itself multiplies what rounding changes.
    tolerance = max(1e-9, 1e2 * EPS * before.condition_number)
    assert after.condition_number == pytest.approx(before.condition_number, rel=tolerance)


def test_scaling_changes_nothing_where_the_null_space_would_be_taken_for_data():
    """64 samples of 512 features: rank 64, whatever the scale (a fixed threshold gives κ = 9x for features x 3)."""
    features = torch.randn(64, 512, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert spectrum(features).rank == spectrum(3 * features).rank == 64
    assert condition_number(3 * features) == pytest.approx(condition_number(features), rel=1e-9)
    assert condition_number(features) < 10


def test_floor_follows_the_precision_of_the_features():
    features = with_singular_values([1.0, 1e-5], 40, 10)
    assert spectrum(features).rank == 2
    assert spectrum(features.float(), precision=torch.float16).rank == 1
    assert spectrum(features, precision=torch.float32).tolerance == 40 * torch.finfo(torch.float32).eps
    assert spectrum(features.float()).tolerance == 40 * torch.finfo(torch.float32).eps
    gram = FeatureGram(10)
    gram.update(features[:20])
    gram.update(features[20:].float())
    assert gram.spectrum().tolerance == 40 * torch.finfo(torch.float32).eps


def test_smoothly_decaying_spectrum_past_the_floor_is_limited_by_precision():
    smooth = with_singular_values(np.geomspace(1, 1e-12, 60), 100, 80)
    result = spectrum(smooth, precision=torch.float32)
    assert 0 < result.rank < 60
    assert result.precision_limited
    gram = FeatureGram(80)
    gram.update(smooth)
    assert gram.spectrum().precision_limited
    assert not spectrum(smooth).precision_limited


@pytest.mark.parametrize(("n", "d"), [(100, 80), (40, 80)])
def test_spectrum_with_a_gap_is_not_limited_by_precision(n, d):
    gap = with_singular_values(np.geomspace(1, 1e-2, 30), n, d)
    gram = FeatureGram(d)
    gram.update(gap)
    for result in (spectrum(gap), spectrum(gap, precision=torch.float32), gram.spectrum()):
        assert result.rank == 30
        assert not result.precision_limited
    full = with_singular_values(np.geomspace(1, 1e-2, min(n, d)), n, d)
    assert not spectrum(full, precision=torch.float32).precision_limited


def test_a_gap_just_above_the_floor_counts_and_none_does_not():
    """Singular values above 40·eps32 = 4.8e-6 count. Below the last one: nothing for a factor of 50, or the next."""
    clear = with_singular_values([1.0, 1e-2, 1e-5, 2e-7], 40, 10)
    close = with_singular_values([1.0, 1e-2, 1e-5, 2e-6], 40, 10)
    for features, limited in ((clear, False), (close, True)):
        result = spectrum(features, precision=torch.float32)
        assert result.rank == 3
        assert result.precision_limited is limited


def test_condition_number_at_an_index():
    result = spectrum(torch.diag(torch.tensor([8.0, 4.0, 2.0, 0.0], dtype=torch.float64)))
    assert result.log_condition_number_at(1) == (0.0, False)
    assert result.log_condition_number_at(2) == (pytest.approx(np.log(4)), False)
    assert result.log_condition_number_at(3) == (pytest.approx(np.log(16)), False)
    bound, is_bound = result.log_condition_number_at(4)
    assert is_bound
    assert bound == pytest.approx(-2 * np.log(4 * EPS))
    with pytest.raises(ValueError, match="counts from 1"):
        result.log_condition_number_at(0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_finite_or_a_clear_error(dtype):
    small = torch.randn(6, 12, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert 1 < condition_number(small) < 1e4
    np.testing.assert_allclose(
        spectrum(small).eigenvalues, np.linalg.svd(small.double().numpy(), compute_uv=False)[::-1] ** 2, rtol=1e-12
    )
    large = torch.randn(4, 2000).to(dtype)
    gram = FeatureGram(2000)
    gram.update(large)
    for call in (lambda: spectrum(large), gram.spectrum):
        with pytest.raises(ValueError, match="Compute the features in float32 or float64"):
            call()


def test_all_zero_features_have_rank_zero_and_no_condition_number():
    gram = FeatureGram(4)
    gram.update(torch.zeros(3, 4))
    for result in (spectrum(torch.zeros(3, 4)), gram.spectrum()):
        assert result.rank == 0
        assert not result.precision_limited
        with pytest.raises(ValueError, match="all-zero features is undefined"):
            _ = result.condition_number


def test_one_row_has_rank_one_and_condition_number_one():
    row = torch.randn(1, 30, generator=torch.Generator().manual_seed(2))
    gram = FeatureGram(30)
    gram.update(row)
    for result in (spectrum(row), gram.spectrum()):
        assert result.rank == 1
        assert result.condition_number == 1.0
        assert float(result.eigenvalues[0]) == pytest.approx(row.double().square().sum().item(), rel=1e-12)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_nan_and_infinite_rows_are_counted(value, dtype):
    features = torch.ones(5, 3, dtype=dtype)
    features[1, 2] = features[4, 0] = value
    with pytest.raises(ValueError, match="2 of 5 feature rows hold NaN or infinite"):
        spectrum(features)
    gram = FeatureGram(3)
    with pytest.raises(ValueError, match="2 of 5"):
        gram.update(features)
    assert gram.n_samples == 0
    assert not gram.matrix.any()


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_features_that_leave_float64_when_squared_are_refused(scale):
    with pytest.raises(ValueError, match="leave float64 when squared"):
        spectrum(scale * torch.ones(3, 2, dtype=torch.float64))
    with pytest.raises(ValueError, match="leave float64 when squared"):
        FeatureGram(2).update(scale * torch.ones(3, 2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        (torch.ones(3), ValueError, r"shape \(n, d\), got \(3,\)"),
        (torch.ones(2, 3, 4, 4), ValueError, "Flatten or pool"),
        (torch.ones(0, 3), ValueError, "hold no numbers"),
        (torch.ones(3, 0), ValueError, "hold no numbers"),
        (torch.ones(2, 2, dtype=torch.complex64), TypeError, "real numbers"),
        ("features", TypeError, "got str"),
        (None, TypeError, "got NoneType"),
        ([[1.0, 2.0], [3.0]], TypeError, "rows of one length"),
        (np.array([["a", "b"]]), TypeError, "array of numbers"),
    ],
)
def test_bad_features_are_named(features, error, message):
    with pytest.raises(error, match=message):
        spectrum(features)


@pytest.mark.filterwarnings("error")
def test_arrays_that_torch_cannot_share_are_taken():
    features = np.random.default_rng(0).standard_normal((8, 4))
    expected = condition_number(torch.from_numpy(features))
    frozen = features.copy()
    frozen.flags.writeable = False
    for same in (features[::-1], np.asfortranarray(features), frozen, features.tolist()):
        result = spectrum(same)
        assert result.condition_number == pytest.approx(expected, rel=1e-12)
        assert result.tolerance == 8 * EPS
    assert condition_number([[2, 0], [0, 1]]) == pytest.approx(4.0)


def test_features_with_a_graph_are_taken_and_left_alone():
    features = torch.eye(3, requires_grad=True)
    assert condition_number(features) == 1.0
    assert features.grad is None
