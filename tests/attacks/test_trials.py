"""The best so far against the number of settings tried."""

from __future__ import annotations

import torch
from tiny import Images

from hf_immunize import run_attacks
from hf_immunize.attacks import ATTACKERS, Budgets, Fit
from hf_immunize.attacks.judging import Draw, Outcome, Trial, judge
from hf_immunize.attacks.report import last_improvement
from hf_immunize.attacks.subject import Material
from hf_immunize.attacks.trials import best_so_far

BUDGETS = Budgets((None,), (10, 30), seeds=(0, 1))


def tried(*pairs, count=None):
    trials = tuple(Trial(f"rate {number}", *pair) for number, pair in enumerate(pairs))
    return [Outcome("", 0, torch.zeros(4, dtype=torch.bool), trials)]


def test_the_search_holds_what_validation_rows_say_and_reports_test_rows():
    found = {
        ("ridge regression", "immunized", None, 10): tried((0.5, 0.4), (0.4, 0.9), (0.6, 0.3)),
        ("L-BFGS", "immunized", None, 10): tried((0.6, 0.8), (0.9, 0.7)),
        ("ridge regression", "immunized", None, 30): tried((0.5, 0.4)),
        ("L-BFGS", "immunized", None, 30): tried((0.1, 0.8)),
    }
    attackers = [ATTACKERS["ridge regression"], ATTACKERS["L-BFGS"]]
    search = best_so_far(found, attackers, BUDGETS, ["immunized"])["probe"]["immunized"]
    assert search["10"]["tried"] == 5
    # Of equal validation accuracies the earlier one stays.
    assert [(one["trial"], one["attacker"], one["accuracy"]) for one in search["10"]["improvements"]] == [
        (1, "ridge regression", 0.4),
        (3, "ridge regression", 0.3),
        (5, "L-BFGS", 0.7),
    ]
    assert [one["trial"] for one in search["30"]["improvements"]] == [1]
    said = last_improvement({"immunized": search})
    assert said == (
        "At 30 steps the search on the immunized model improved last with setting 1 of 2 (ridge regression: rate 0)."
    )


def test_a_setting_that_was_dropped_counts_as_tried_with_its_last_accuracy(own_attacker):
    labels = torch.arange(100) % 2
    rows = torch.nn.functional.one_hot(labels).double()

    @own_attacker("dropping")
    def dropping(task):
        for setting, share in (("first", 0.2), ("second", 0.9)):
            yield Fit(setting, 5, lambda held, share=share: held * (torch.arange(len(held)) % 10 < 10 * share)[:, None])
        yield Fit("second", 50, lambda held: held)

    material = Material({"train": rows, "test": rows})
    draw = Draw.of(material, "features", labels, per_class=None, seed=0)
    found = judge(dropping, draw, material, labels, 2, steps=(5, 50), seed=0)
    before, after = found[5].trials, found[50].trials
    assert [one.setting for one in before] == [one.setting for one in after] == ["first", "second"]
    assert after[0] == before[0]
    assert after[1].validation == after[1].accuracy == 1 > before[1].accuracy


def test_a_suite_counts_every_setting_and_the_best_so_far_only_rises(two_models):
    names = ["last block", "all weights"]
    budgets = Budgets(finetune_samples=(None,), finetune_steps=(1, 2, 4), seeds=(0, 1))
    report = run_attacks(*two_models, Images(60, seed=5), Images(40, seed=5), attackers=names, budgets=budgets)
    assert list(report.trials["fine-tuning"]) == report.models
    for by_steps in report.trials["fine-tuning"].values():
        assert list(by_steps) == ["1", "2", "4"]
        for search in by_steps.values():
            # Six settings of the last block and four of all weights, those that were dropped among them.
            assert search["tried"] == 10
            ranks = [one["trial"] for one in search["improvements"]]
            found = [one["validation"] for one in search["improvements"]]
            assert ranks == sorted(set(ranks))
            assert found == sorted(set(found))
            assert ranks[0] == 1
    assert "improved last with setting" in str(report)
