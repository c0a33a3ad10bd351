"""Where a release stands: figures read from records, verifications that are of them, and what is neither refused."""

from __future__ import annotations

import json

import pytest
from samples import attack_report, attacks, sample_record

from hf_immunize.release.claims import compare_results
from hf_immunize.release.standing import ratio_text, read_verification, standing, verification_of
from hf_immunize.release.verify import Verification


def verification(record, name="immune", revision=None, **measured):
    """A verification of a record that measured what is given, and the record's own figures besides."""
    results = {**record.results, "n_primary": 500, **measured}
    claims = tuple(compare_results(record.results, results, {"initial", "immunized", "control"}))
    return json.loads(json.dumps(Verification(name, revision, record, claims, results).to_dict()))


def test_the_figures_are_those_of_the_record():
    found = standing(sample_record().results)
    assert (found.rir, found.bound) == (1.4e5, "exact")
    assert found.accuracy == {"initial": 0.968, "immunized": 0.964, "control": 0.974}
    assert set(found.strongest) == {"probe"}
    heads = found.strongest["probe"]
    assert (heads.attacker, heads.control, heads.immunized, heads.outcome) == (
        "Adam, best rate",
        0.93,
        0.684,
        "weakened",
    )
    assert heads.recovery == pytest.approx((0.684 - 0.4) / (0.954 - 0.4))
    # Beyond the random weights' 40 % at 300 steps, and 34.2 over 20 at 10.
    assert (heads.uplift, heads.beyond) == (pytest.approx(0.284), "random weights")
    assert found.benign_cost == pytest.approx(0.04)
    assert found.against == "the control"
    assert found.verdict.startswith("Heads on the frozen features: weakened")


def test_budgets_are_read_in_their_order_whatever_json_made_of_them():
    """Sorted as words, 300 steps would stand before 30, and the smaller budget would be taken for the largest."""
    heads = {"Adam, best rate": {"initial": 0.9, "control": 0.9, "immunized": 0.8, "scratch": 0.2}}
    given = attack_report(heads).to_dict()
    for one in (given["attackers"]["Adam, best rate"]["accuracy"], given["worst_case"]["probe"]):
        for by_samples in one.values():
            for by_steps in by_samples.values():
                by_steps["30"] = by_steps.pop("10")
    found = standing(json.loads(json.dumps({"attacks": given}, sort_keys=True)))
    assert found.strongest["probe"].immunized == 0.8


def test_the_verdict_follows_from_the_figures_whatever_the_record_says():
    given = attacks()
    words = given["verdict"]["text"]
    given["verdict"] = {"text": "Nobody can break it.", "outcome": {"probe": "held"}}
    found = standing({"attacks": given})
    assert (found.verdict, found.strongest["probe"].outcome) == (words, "weakened")


def test_what_was_not_measured_is_none():
    found = standing({})
    assert (found.rir, found.accuracy, found.strongest, found.benign_cost, found.verdict) == (None, {}, {}, None, "")
    weak = {"Adam, best rate": {"initial": 0.41, "immunized": 0.41, "scratch": 0.4}}
    heads = standing({"attacks": attack_report(weak).to_dict()}).strongest["probe"]
    assert (heads.recovery, heads.control, heads.outcome) == (None, None, "undecided")
    bare = {"Adam, best rate": {"initial": 0.9, "immunized": 0.5}}
    assert standing({"attacks": attack_report(bare).to_dict()}).strongest["probe"].uplift is None


def test_ratios_are_written_with_their_bound():
    assert [ratio_text(None), ratio_text(5.48e22, "lower"), ratio_text(0.94)] == ["–", "≥ 5.5 × 10²²", "0.94"]


def test_a_verification_is_found_inside_beside_and_among_those_given(tmp_path):
    record = sample_record()
    folder = tmp_path / "immune"
    folder.mkdir()
    assert verification_of("immune", None, record, folder) is None
    own = verification(record)
    assert own["holds"]
    for place in (folder, tmp_path):
        (place / "verification.json").write_text(json.dumps(own), encoding="utf-8")
        assert verification_of("immune", None, record, folder).status == "holds"
        (place / "verification.json").unlink()
    assert verification_of("immune", None, record, None, [own]).status == "holds"
    of_the_hub = verification(record, "me/immune", "c" * 40)
    assert verification_of("me/immune", "c" * 40, record, None, [own, of_the_hub]).status == "holds"
    assert verification_of("me/immune", "d" * 40, record, None, [own, of_the_hub]) is None


def test_what_differs_is_said_with_both_figures():
    record = sample_record()
    lower = {"primary_accuracy": {**record.results["primary_accuracy"], "immunized": 0.9}}
    found = verification_of("immune", None, record, None, [verification(record, **lower)])
    assert found.status == "differs"
    assert found.differing == (("primary accuracy, immunized", "0.964", "0.9"),)
    assert (found.rir, found.accuracy["immunized"]) == ("1.4 × 10⁵", 0.9)


def test_what_could_not_be_checked_does_not_hold():
    record = sample_record()
    without = verification(record, primary_accuracy={})
    assert verification_of("immune", None, record, None, [without]).status == "not all checked"
    nothing_asked = verification(record)
    for one in nothing_asked["claims"]:
        one["asked"] = False
    assert verification_of("immune", None, record, None, [nothing_asked]).status == "not all checked"


def test_releases_of_one_name_have_each_its_own_verification(tmp_path):
    records = [sample_record(), sample_record()]
    records[1].results["primary_accuracy"]["immunized"] = 0.95
    both = [verification(one) for one in records]
    for given in (both, both[::-1], [{**both[0], "claims": None}, *both]):
        found = [verification_of("immune", None, one, None, given) for one in records]
        assert [(one.status, one.accuracy["immunized"]) for one in found] == [("holds", 0.964), ("holds", 0.95)]
    # One that was given for another release hides none beside the folder.
    (tmp_path / "verification.json").write_text(json.dumps(both[1]), encoding="utf-8")
    assert verification_of("immune", None, records[1], tmp_path, both[:1]).status == "holds"


def test_a_verification_of_another_record_is_refused():
    own = verification(sample_record())
    changed = sample_record()
    changed.results["primary_accuracy"]["immunized"] = 0.999
    with pytest.raises(ValueError, match="of another record"):
        verification_of("immune", None, changed, None, [own])
    for broken in (
        {**own, "claims": []},
        {**own, "claims": [1]},
        {**own, "claims": None},
        {**own, "measured": {"rir": 1}},
    ):
        with pytest.raises(ValueError, match=r"its verification (is of another record|cannot be read)"):
            verification_of("immune", None, sample_record(), None, [broken])


def test_a_file_that_is_no_verification_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="hf-immunize verify MODEL --output_dir"):
        read_verification(tmp_path)
    for text, message in (("{", "is not valid JSON"), ("[]", "is no verification"), ('{"name": 1}', "no verification")):
        (tmp_path / "verification.json").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            read_verification(tmp_path)
