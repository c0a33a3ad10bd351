"""The running Gram: over any batches, over processes, and what it cannot resolve."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from spectral import CASES, with_singular_values

from hf_immunize.spectra.spectrum import FeatureGram, spectrum

EPS = np.finfo(np.float64).eps


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
