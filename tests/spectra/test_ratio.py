import math

import pytest
import torch

from hf_immunize.spectra.ratio import relative_immunization_ratio
from hf_immunize.spectra.spectrum import FeatureGram, spectrum


def diagonal(*values, dtype=torch.float64):
    return torch.diag(torch.tensor(values, dtype=dtype))


def random_features(n, d, seed):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gram_of(features):
    gram = FeatureGram(features.shape[1])
    gram.update(features)
    return gram


FULL, BASE = diagonal(6.0, 2.0, 1.0), diagonal(3.0, 2.0, 1.0)
LOST = diagonal(3.0, 2.0, 0.0)


@pytest.mark.parametrize("wrap", [lambda x: x, gram_of, spectrum, lambda x: x.tolist()])
def test_closed_form_on_diagonal_features(wrap):
    """κ is the square of the ratio of the largest to the smallest entry."""
    result = relative_immunization_ratio(
        *(wrap(x) for x in (diagonal(10.0, 1.0), diagonal(2.0, 1.0), diagonal(4.0, 2.0), diagonal(3.0, 1.0)))
    )
    assert result.rir_i == pytest.approx(100 / 4)
    assert result.rir_ii == pytest.approx(4 / 9)
    assert result.rir == pytest.approx(25 * 9 / 4)
    assert (result.rir_bound, result.rir_i_bound, result.rir_ii_bound) == ("exact", "exact", "exact")
    assert not result.precision_limited


def test_equal_ranks_give_the_papers_definition():
    """θᴵ and θ0 with three directions of five, below the width: κ on each model's own span."""
    pairs = [random_features(3, 5, seed) for seed in range(4)]
    result = relative_immunization_ratio(*pairs)
    own = [spectrum(x).condition_number for x in pairs]
    assert result.rir_i == pytest.approx(own[0] / own[1])
    assert result.rir_ii == pytest.approx(own[2] / own[3])
    assert result.rir == pytest.approx(own[0] / own[1] / (own[2] / own[3]))


@pytest.mark.parametrize("wrap", [lambda x: x, gram_of])
@pytest.mark.parametrize("shape", [(20, 50), (50, 20), (30, 30)])
def test_same_extractor_on_both_sides_gives_exactly_one(shape, wrap):
    harmful, primary = random_features(*shape, 0), random_features(*shape, 1)
    result = relative_immunization_ratio(wrap(harmful), wrap(harmful), wrap(primary), wrap(primary))
    assert (result.rir, result.rir_i, result.rir_ii) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("scale", [1e-3, 3.0, 1e3])
def test_scaling_one_models_features_changes_nothing(scale):
    features = [random_features(40, 10, seed) for seed in range(4)]
    before = relative_immunization_ratio(*features)
    features[0] = scale * features[0]
    features[3] = scale * features[3].flip(0)
    after = relative_immunization_ratio(*features)
    assert after.rir == pytest.approx(before.rir, rel=1e-9)
    assert after.rir_i == pytest.approx(before.rir_i, rel=1e-9)
    assert after.rir_ii == pytest.approx(before.rir_ii, rel=1e-9)


@pytest.mark.parametrize(
    ("harmful", "primary", "bounds", "printed"),
    [
        (FULL, FULL, ("exact", "exact", "exact"), "RIR 1,"),
        (LOST, FULL, ("lower", "lower", "exact"), "RIR ≥ "),
        (FULL, LOST, ("upper", "exact", "lower"), "RIR ≤ "),
        (LOST, LOST, ("undetermined", "lower", "lower"), "RIR ? "),
    ],
)
def test_a_lost_direction_is_a_bound_and_never_a_better_condition(harmful, primary, bounds, printed):
    result = relative_immunization_ratio(harmful, BASE, primary, BASE)
    assert (result.rir_bound, result.rir_i_bound, result.rir_ii_bound) == bounds
    assert str(result).startswith(printed)
    # On its own span LOST has κ = 9/4, below BASE's 9; at θ0's index it is at least 1/tolerance².
    least = 1 / (3 * torch.finfo(torch.float64).eps) ** 2 / 9
    assert result.rir_i == pytest.approx(least if harmful is LOST else 4.0)
    assert result.rir_ii == pytest.approx(least if primary is LOST else 4.0)
    assert ("≥" in str(result).split("(i)")[1].split(",")[0]) == (harmful is LOST)
    assert ("≥" in str(result).split("(ii)")[1].split(";")[0]) == (primary is LOST)


def test_a_bound_stays_a_bound_for_any_value_under_the_floor():
    """The true κ of a direction under the floor of float32 is larger than the bound printed for it."""
    true = diagonal(3.0, 2.0, 1e-9)
    exact = relative_immunization_ratio(true, BASE, BASE, BASE)
    bound = relative_immunization_ratio(spectrum(true, precision=torch.float32), BASE, BASE, BASE)
    assert exact.rir_bound == "exact"
    assert bound.rir_bound == "lower"
    assert BASE.shape[0] < bound.rir < exact.rir


def test_a_gained_direction_is_compared_at_the_initial_rank():
    result = relative_immunization_ratio(FULL, LOST, BASE, BASE)
    assert result.rir_i == pytest.approx((6 / 2) ** 2 / (3 / 2) ** 2)
    assert result.rir_bound == "exact"


def test_precision_limit_of_the_initial_spectrum_is_told():
    smooth = torch.diag(torch.logspace(0, -12, 40, dtype=torch.float64))
    limited = spectrum(smooth, precision=torch.float32)
    fine = spectrum(torch.eye(40))
    for arguments, expected in [
        ((fine, limited, fine, fine), True),
        ((fine, fine, fine, limited), True),
        ((limited, fine, fine, fine), False),
    ]:
        result = relative_immunization_ratio(*arguments)
        assert result.precision_limited is expected
        assert ("limited by precision" in str(result)) is expected


def test_kappa_in_the_dictionary_is_at_theta_zeros_rank():
    """LayerNorm leaves θ0 one direction less than its width; what θᴵ has there is rounding, and no κ of anything."""
    more = torch.diag(torch.tensor([6.0, 2.0, 1e-7], dtype=torch.float64))
    less = torch.diag(torch.tensor([3.0, 1.0, 0.0], dtype=torch.float64))
    result = relative_immunization_ratio(more, less, BASE, BASE).to_dict()
    assert result["immunized_harmful_rank"] == 3
    assert result["immunized_harmful_condition_number"] == pytest.approx(9)
    kappas = [result[f"{name}_harmful_condition_number"] for name in ("immunized", "initial")]
    assert result["rir_i"] == pytest.approx(kappas[0] / kappas[1])
    # Where it lost a direction, its own last value; (i) is a bound then.
    result = relative_immunization_ratio(less, more, BASE, BASE).to_dict()
    assert result["immunized_harmful_condition_number"] == pytest.approx(9)
    assert result["rir_i_bound"] == "lower"


def test_dictionary_is_flat_and_plain():
    result = relative_immunization_ratio(FULL, BASE, LOST, BASE).to_dict()
    assert all(type(value) in (bool, int, float, str) for value in result.values())
    assert result["rir_bound"] == "upper"
    assert result["immunized_harmful_condition_number"] == pytest.approx(36)
    assert result["initial_harmful_condition_number"] == pytest.approx(9)
    assert result["immunized_primary_condition_number"] == pytest.approx(9 / 4)
    assert [result[f"{name}_rank"] for name in ("immunized_harmful", "immunized_primary", "initial_primary")] == [
        3,
        2,
        3,
    ]
    assert result["immunized_primary_n_samples"] == result["initial_harmful_n_features"] == 3
    assert math.isclose(result["rir"], result["rir_i"] / result["rir_ii"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((BASE[:2], BASE, BASE, BASE), "harmful features before and after .* 3 before and 2 after"),
        ((BASE, BASE, BASE, BASE[:2]), "primary features before and after .* 2 before and 3 after"),
        ((BASE[:1], BASE[:1], BASE, BASE), "One harmful sample"),
        ((BASE, BASE, BASE[:1], BASE[:1]), "One primary sample"),
        ((BASE, 0 * BASE, BASE, BASE), "initial harmful features are all zero"),
        ((BASE, BASE, 0 * BASE, BASE), "immunized primary features are all zero"),
        ((BASE, BASE, BASE * math.nan, BASE), "NaN"),
    ],
)
def test_bad_features_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        relative_immunization_ratio(*arguments)
