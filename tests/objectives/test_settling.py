"""What comes last: the spectra, with the last block alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fine_tuning import batch, network, view

from hf_immunize.errors import InputError
from hf_immunize.objectives.objective import Phase
from hf_immunize.objectives.settling import Settling
from hf_immunize.spectra.regularizers import features_r_ill, features_r_well


class Quiet(Settling):
    first_phase = Phase(harmful_features=False)

    def first_parts(self, step, gather):
        return {"quiet": step.primary_features.sum()}


def test_the_last_share_of_the_steps_is_another_phase():
    objective = Quiet(1.0, 1.0, True, 0.25)
    assert objective.restart == 0.75
    assert objective.phase(0.74) == Phase(harmful_features=False)
    assert objective.phase(0.75) == Phase(last_block_alone=True)
    step = view(network())
    assert set(objective.of_step(step, lambda one: one)) == {"quiet"}
    alone = Quiet(1.0, 1.0, True, 0.0)
    assert alone.restart is None
    assert alone.phase(0.99) == Phase(harmful_features=False)


def test_then_the_parts_are_those_of_both_spectra():
    model = network()
    step = replace(view(model), progress=0.8, harmful_features=model.body(batch(2)["pixel_values"]))
    parts = Quiet(2.0, 0.5, True, 0.25, 0.3).of_step(step, lambda one: one)
    assert parts["r_well"].item() == pytest.approx(2.0 * features_r_well(step.primary_features).item())
    assert parts["r_ill"].item() == pytest.approx(0.15 * features_r_ill(step.harmful_features).item())
    assert set(parts) == {"r_well", "r_ill"}


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_that_leaves_nothing_is_refused(share):
    with pytest.raises(InputError, match="settling must be a share"):
        Quiet(1.0, 1.0, True, share)
