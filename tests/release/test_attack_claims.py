"""Claims of attackers beside the same attacks made again."""

from __future__ import annotations

import copy
import functools
import json

import pytest
from samples import ACCURACY, attack_report
from samples import attacks as sample_attacks
from tables import changed, leaves

from hf_immunize.attacks.verdict import verdict_of
from hf_immunize.release.attack_claims import compare_attacks

MODELS = {"initial", "immunized", "control"}


@functools.cache
def _attacks():
    return sample_attacks()


def attacks():
    return copy.deepcopy(_attacks())


EVERYONE = set(attacks()["attackers"])


def wrong(claimed, measured=None, models=MODELS, attackers=EVERYONE):
    return [
        one
        for one in compare_attacks(claimed, measured or attacks(), models, attackers)
        if one.asked and one.status != "holds"
    ]


def test_the_same_attacks_hold():
    assert not wrong(attacks())


#: Times of that machine, thresholds of this library and budgets say nothing about a model.
ASIDE = ("seconds", "budgets")
FIGURES = [path for path, _ in leaves(attacks()) if path[0] not in ASIDE and "thresholds" not in path]


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: ".".join(map(str, path)))
def test_every_changed_figure_is_seen(path):
    value = dict(leaves(attacks()))[path]
    assert wrong(changed(attacks(), path, value * 4 + 1))


def test_a_figure_within_its_interval_holds():
    """The standard error of 0.684 over 500 rows is 0.0208."""
    claimed = attacks()
    cell = claimed["attackers"]["Adam, best rate"]["accuracy"]["immunized"]["all"]["300"]
    for shift, holds in ((0.040, True), (0.042, False)):
        measured = copy.deepcopy(claimed)
        other = measured["attackers"]["Adam, best rate"]["accuracy"]["immunized"]["all"]["300"]
        other |= {name: cell[name] + shift for name in ("mean", "low", "high")}
        assert bool(wrong(claimed, measured)) != holds


def test_a_verdict_that_does_not_follow_from_its_figures_differs_without_any_attack():
    claimed = attacks()
    claimed["verdict"]["text"] = claimed["verdict"]["text"].replace("weakened", "held")
    assert claimed["verdict"]["text"] != attacks()["verdict"]["text"]
    found = [one for one in compare_attacks(claimed, None, MODELS, set()) if one.status == "differs"]
    assert [one.name for one in found] == ["the verdict's words follow from its figures"]
    assert found[0].asked


def test_attackers_that_were_not_asked_for_do_not_count():
    found = list(compare_attacks(attacks(), None, MODELS, set()))
    assert {one.status for one in found if not one.asked} == {"cannot be checked"}
    one = wrong(attacks(), None, attackers={"ridge regression"})
    assert not one
    lacking = attacks()
    del lacking["attackers"]["ridge regression"]
    assert {one.name.split(",")[0] for one in wrong(attacks(), lacking, attackers={"ridge regression"})} == {
        "ridge regression"
    }


@functools.cache
def _with_ceilings():
    """Public weights above the release, the benign task fine-tuned, and how the search went."""
    accuracy = {name: one | {"public": 0.7} for name, one in ACCURACY.items()}
    report = attack_report(accuracy).to_dict()
    tuned = {name: {"attacker": "last block", "mean": mean} for name, mean in (("initial", 0.9), ("immunized", 0.7))}
    tuned |= {"against": "initial", "cost": 0.9 - 0.7}
    report["selectivity"] = tuned | {"fine-tuning": {"30": dict(tuned), "100": dict(tuned)}}
    last = {"trial": 2, "attacker": "L-BFGS", "setting": "", "validation": 0.6, "accuracy": 0.5}
    search = {"300": {"tried": 3, "improvements": [last]}}
    report["trials"] = {"probe": dict.fromkeys(("initial", "immunized"), search)}
    report["verdict"] = verdict_of(report)
    return json.loads(json.dumps(report))


def with_ceilings():
    return copy.deepcopy(_with_ceilings())


def test_uplift_benign_fine_tuning_and_the_search_are_claims_too():
    everything = MODELS | {"public"}
    assert not wrong(with_ceilings(), with_ceilings(), everything)
    seen = 0
    for path, value in leaves(with_ceilings()):
        # On which way a search came to its end is nobody's claim.
        if path[0] in ("uplift", "trials", "selectivity") and path[-1] not in ("trial", "validation"):
            assert wrong(changed(with_ceilings(), path, value * 4 + 1), with_ceilings(), everything), path
            seen += 1
    assert seen > 40


def test_uplift_over_models_that_cannot_be_had_is_not_asked_for_but_must_follow():
    claimed, measured = with_ceilings(), attacks()
    measured["selectivity"], measured["trials"] = claimed["selectivity"], claimed["trials"]
    measured["verdict"], measured["exact_steps"] = claimed["verdict"], claimed["exact_steps"]
    assert not wrong(claimed, measured)
    # A group of figures is named with the one that is furthest from what was measured.
    compared = compare_attacks(claimed, measured, MODELS, EVERYONE)
    aside = {one.name.partition(" (")[0] for one in compared if not one.asked}
    assert {"uplift by probe, immunized", "ridge regression, uplift", "strongest probe, public"} <= aside
    claimed["uplift"]["worst_case"]["probe"]["immunized"]["all"]["300"]["value"] += 0.1
    names = {one.name.partition(" (")[0] for one in wrong(claimed, measured)}
    assert "uplift by probe, immunized: it follows from its figures" in names
    # So do the words of the verdict.
    assert "the verdict's words follow from its figures" in names


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        ("weakened, not stopped. The", "weakened. Among all of them the", "holds"),
        (" The release gives an attacker up to", " An attacker gets up to", "holds"),
        ("recovers 51 %", "gets back 51 %", "holds"),
        ("recovers 51 %", "recovers 15 %", "differs"),
        ("weakened", "held", "differs"),
        ("28.4 points", "8.4 points", "differs"),
    ],
)
def test_a_verdict_in_the_words_of_an_earlier_version_is_judged_by_its_figures(old, new, status):
    claimed = attacks()
    text = claimed["verdict"]["text"]
    assert old in text
    claimed["verdict"]["text"] = text.replace(old, new)
    found = {one.name: one.status for one in compare_attacks(claimed, attacks(), MODELS, EVERYONE)}
    assert found["the verdict's words follow from its figures"] == status
