"""Accuracies and their resamples."""

from __future__ import annotations

import numpy as np
import torch

from hf_immunize.attacks.judging import Outcome
from hf_immunize.attacks.resampling import Resampled, interval


def test_resamples_take_the_same_rows_of_every_outcome():
    generator = torch.Generator().manual_seed(1)
    correct = {name: torch.rand(2, 300, generator=generator) < share for name, share in (("a", 0.3), ("b", 0.8))}
    found = Resampled(
        {(name, "initial", None, 5): [Outcome("", 0, one) for one in fits] for name, fits in correct.items()}
    )
    rows = torch.randint(300, (1000, 300), generator=torch.Generator().manual_seed(0)).numpy()
    for name, fits in correct.items():
        one = found.of(name, "initial", None, 5)
        expected = fits.double().mean(0).numpy()
        np.testing.assert_allclose(one.draws, expected[rows].mean(1), atol=1e-12)
        assert one.mean == np.float64(expected.mean())
    strongest = found.strongest(["a", "b"], "initial", None, 5)
    assert strongest.attacker == "b"
    both = torch.stack([found.of(name, "initial", None, 5).draws for name in "ab"])
    assert torch.equal(strongest.draws, both.amax(0))
    assert interval(torch.arange(1001, dtype=torch.float64)) == {"low": 25.0, "high": 975.0}
