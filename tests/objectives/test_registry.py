"""Every objective by its name."""

import pytest
import torch
from spectral import features

from hf_immunize.objectives.objective import Objective
from hf_immunize.objectives.registry import OBJECTIVES, get_objective

OF_FEATURES = sorted(name for name, one in OBJECTIVES.items() if not one.sees_model)


@pytest.mark.parametrize("name", OF_FEATURES)
def test_every_objective_is_built_alike_and_gives_scalars_that_reach_the_harmful_features(name):
    objective = get_objective(name, lambda_primary=1.0, lambda_harmful=0.5, scale_free=True)
    labels = torch.tensor([0, 1, 0, 1, 1, 0])
    x, z = features((6, 4), 18), features((6, 4), 19)
    # Classes that can be told apart, or there is nothing to be held down.
    told = z + 3 * labels[:, None]
    parts = objective(x.float(), told.float(), labels)
    assert isinstance(objective, Objective)
    assert objective.name == name
    assert all(part.ndim == 0 and torch.isfinite(part) for part in parts.values())
    sum(parts.values()).backward()
    assert (z.grad is not None and bool(z.grad.abs().max() > 0)) == objective.uses_harmful
    assert (x.grad is not None and bool(x.grad.abs().max() > 0)) == objective.uses_primary


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'condition'"):
        get_objective("conditon")
