import inspect
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_immunize.spectra.spectrum import FeatureGram, condition_number, spectrum

EPS = np.finfo(np.float64).eps


def with_singular_values(values, n, d, seed=0):
    """An n x d float64 matrix with the given singular values and random singular vectors."""
    rng = np.random.default_rng(seed)
    k = len(values)
    left = np.linalg.qr(rng.standard_normal((n, k)))[0]
    right = np.linalg.qr(rng.standard_normal((d, k)))[0]
    return torch.from_numpy((left * np.asarray(values)) @ right.T)


def zero_column(n, d, seed):
    features = torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    features[:, seed % d] = 0
    return features


CASES = {
    "wide": lambda seed: torch.randn(20, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)),
    "square": lambda seed: with_singular_values(np.geomspace(1e-3, 5, 30), 30, 30, seed),
    "tall": lambda seed: torch.randn(200, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)),
    "rank-deficient": lambda seed: with_singular_values(np.linspace(0.5, 3, 7), 25, 18, seed),
    "rank-deficient wide": lambda seed: with_singular_values(np.linspace(0.5, 3, 7), 12, 40, seed),
    "tied": lambda seed: with_singular_values([2, 2, 2, 0.5, 0.5], 16, 9, seed),
    "zero column": lambda seed: zero_column(60, 20, seed),
    "one column": lambda seed: torch.rand(9, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)),
}


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


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_streamed_gram_equals_the_spectrum_over_random_batch_splits(case, seed):
    features = CASES[case](seed)
    cuts = np.sort(np.random.default_rng(seed).integers(1, features.shape[0], size=4)) if len(features) > 1 else []
    gram = FeatureGram(features.shape[1])
    for batch in np.split(features.numpy(), np.unique(cuts)):
        gram.update(batch)
    streamed, whole = gram.spectrum(), spectrum(features)
    assert gram.n_samples == features.shape[0]
    assert streamed.rank == whole.rank
    np.testing.assert_allclose(
        streamed.eigenvalues, whole.eigenvalues, rtol=0, atol=1e3 * EPS * float(whole.eigenvalues[-1])
    )
    assert not streamed.precision_limited


def test_gram_takes_more_rows_at_once_than_one_chunk():
    features = torch.randn(9000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gram = FeatureGram(3)
    gram.update(features)
    assert gram.n_samples == 9000
    torch.testing.assert_close(gram.matrix, features.mT @ features, rtol=1e-12, atol=1e-10)


def test_gram_says_less_than_it_cannot_resolve():
    """s_r/s_1 = 1e-9 is data for an SVD in float64 and lies below the floor of a Gram."""
    features = with_singular_values([1.0, 0.5, 1e-9], 40, 10)
    gram = FeatureGram(10)
    gram.update(features)
    assert spectrum(features).rank == 3
    assert spectrum(features).condition_number == pytest.approx(1e18, rel=1e-5)
    assert gram.spectrum().rank == 2
    assert gram.spectrum().tolerance >= np.sqrt(40 * EPS)


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


def test_bad_use_of_a_gram():
    for width in (0, -1, 2.0, "3"):
        with pytest.raises(ValueError, match="positive integer"):
            FeatureGram(width)
    gram = FeatureGram(3)
    with pytest.raises(ValueError, match="holds no rows yet"):
        gram.spectrum()
    with pytest.raises(ValueError, match="width 3, got 4"):
        gram.update(torch.ones(2, 4))
    gram.update(torch.ones(2, 3))
    assert gram.n_samples == 2


REDUCE = """
    import sys
    import torch
    from accelerate import Accelerator
    from hf_immunize.spectra.spectrum import FeatureGram

    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    features = torch.load(sys.argv[1])
    # Uneven shares, the second in coarser precision: counts and precision are reduced too.
    share = features[:31] if accelerator.process_index == 0 else features[31:].float()
    gram = FeatureGram(features.shape[1])
    for batch in share.split(7):
        gram.update(batch)
    result = gram.reduce(accelerator).spectrum()
    torch.save(
        {"eigenvalues": result.eigenvalues, "n": result.n_samples, "eps": gram.eps, "matrix": gram.matrix},
        f"{sys.argv[2]}/{accelerator.process_index}.pt",
    )
    for again in (lambda: gram.reduce(accelerator), lambda: gram.update(share)):
        try:
            again()
        except ValueError as error:
            assert "already reduced" in str(error)
        else:
            raise AssertionError("rows would count twice")
    accelerator.end_training()
"""


def test_reduction_over_two_processes_equals_one(tmp_path):
    features = torch.randn(50, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    features = features.float().double()
    torch.save(features, tmp_path / "features.pt")
    script = tmp_path / "reduce.py"
    script.write_text(textwrap.dedent(REDUCE))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv_backend", "c10d"]
    command += ["--rdzv_endpoint", "localhost:0", str(script), str(tmp_path / "features.pt"), str(tmp_path)]
    # The tests may run from a checkout that is not installed.
    paths = [str(Path(inspect.getfile(FeatureGram)).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]

    alone = FeatureGram(12)
    alone.update(features)
    for process in range(2):
        result = torch.load(tmp_path / f"{process}.pt")
        assert result["n"] == 50
        assert result["eps"] == torch.finfo(torch.float32).eps
        torch.testing.assert_close(result["matrix"], alone.matrix, rtol=1e-13, atol=1e-12)
        torch.testing.assert_close(result["eigenvalues"], alone.spectrum().eigenvalues, rtol=1e-12, atol=0)
