"""Rows of two tasks under two models, and their RIR by other means."""

from __future__ import annotations

import pytest
import torch
from metric_rows import TASKS

from hf_immunize.metrics.load import load_rir
from hf_immunize.spectra.ratio import relative_immunization_ratio
from hf_immunize.spectra.spectrum import FeatureGram


@pytest.fixture
def rir(tmp_path):
    return load_rir(cache_dir=str(tmp_path))


@pytest.fixture(scope="module")
def rows():
    """48 samples of 9 features, float32 under both models, tasks interleaved."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(0, -1, 9)
    return {
        "immunized": torch.randn(48, 9, generator=generator) * scales,
        "initial": torch.randn(48, 9, generator=generator),
        "task": [TASKS[bool(i % 3)] for i in range(48)],
    }


@pytest.fixture(scope="module")
def expected(rows):
    """RIR of the same rows through the Grams of whole feature matrices."""
    chosen = torch.tensor([task == "harmful" for task in rows["task"]])
    grams = []
    for mask in (chosen, ~chosen):
        for model in ("immunized", "initial"):
            grams.append(FeatureGram(9))
            grams[-1].update(rows[model][mask])
    result = relative_immunization_ratio(*grams)
    exact = relative_immunization_ratio(
        *(rows[m][mask] for mask in (chosen, ~chosen) for m in ("immunized", "initial"))
    )
    assert result.rir == pytest.approx(exact.rir, rel=1e-9)
    assert abs(result.rir - 1) > 1
    return result.to_dict()
