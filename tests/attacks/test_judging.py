"""How an attack is measured: split, budgets, choice on validation rows."""

from __future__ import annotations

import math

import pytest
import torch

from hf_immunize.attacks import Budgets, Fit
from hf_immunize.attacks.judging import Draw, budget_rows, judge, split_rows
from hf_immunize.attacks.subject import Material


def test_a_split_keeps_every_class_and_shares_no_row():
    labels = torch.tensor([0] * 50 + [1] * 9 + [2] * 2)
    train, validation = split_rows(labels, seed=0)
    assert sorted(torch.cat([train, validation]).tolist()) == list(range(61))
    assert torch.bincount(labels[validation]).tolist() == [10, 2, 1]
    assert not torch.equal(split_rows(labels, seed=1)[1], validation)
    assert len(split_rows(torch.arange(20_000) % 5, seed=0)[1]) == 1000


def test_a_budget_takes_as_many_of_each_class_or_all_there_are():
    labels = torch.tensor([0] * 50 + [1] * 9)
    train, _ = split_rows(labels, seed=0)
    assert torch.bincount(labels[budget_rows(train, labels, 10)]).tolist() == [10, 7]
    assert budget_rows(train, labels, None) is train


def test_what_an_attacker_reports_was_chosen_by_validation_rows_alone(own_attacker):
    """Right on validation and wrong on test beats wrong on validation and right on test."""
    labels = torch.arange(100) % 2
    rows = torch.stack([torch.arange(100.0), labels.double()], 1)
    test = torch.stack([torch.arange(100.0, 200.0), labels.double()], 1)

    @own_attacker("planted")
    def planted(task):
        for flipped_from in (100, 0):

            def scores(held, flipped_from=flipped_from):
                known = held[:, 0] >= 100
                right = held[:, 1].long() ^ (known if flipped_from else ~known).long()
                return torch.nn.functional.one_hot(right, 2)

            yield Fit(f"wrong {'on test' if flipped_from else 'on validation'}", 1, scores)

    material = Material({"train": rows, "test": test})
    draw = Draw.of(material, "features", labels, per_class=None, seed=0)
    found = judge(planted, draw, material, labels, 2, steps=(1, 5), seed=0)[5]
    assert found.setting == "wrong on test"
    assert found.validation_accuracy == 1
    assert not found.correct.any()


def test_a_budget_of_steps_counts_no_later_fit(own_attacker):
    labels = torch.arange(60) % 3
    rows = torch.nn.functional.one_hot(labels).double()

    @own_attacker("late")
    def late(task):
        for step in task.checkpoints:
            good = step > 20
            yield Fit("", step, lambda held, good=good: held if good else torch.zeros(len(held), 3))

    material = Material({"train": rows, "test": rows})
    draw = Draw.of(material, "features", labels, per_class=None, seed=0)
    found = judge(late, draw, material, labels, 3, steps=(5, 20, 50), seed=0)
    assert [float(found[step].correct.double().mean()) for step in (5, 20, 50)] == [1 / 3, 1 / 3, 1]


def test_an_attacker_learns_the_validation_accuracy_of_each_fit_and_nothing_else(own_attacker):
    labels = torch.tensor([0, 1] * 50)
    rows = torch.nn.functional.one_hot(labels).double()
    told = []

    @own_attacker("listening")
    def listening(task):
        told.append((yield Fit("right", 1, lambda held: held)))
        told.append((yield Fit("wrong", 1, lambda held: -held)))

    # Every test row has the other class: their accuracy is 0 where the validation accuracy is 1.
    material = Material({"train": rows, "test": rows})
    draw = Draw.of(material, "features", labels, per_class=None, seed=0)
    judge(listening, draw, material, 1 - labels, 2, steps=(1,), seed=0)
    assert told == [1.0, 0.0]


def test_an_attacker_that_does_not_yield_is_refused(own_attacker):
    labels = torch.arange(20) % 2
    material = Material({"train": labels[:, None].double(), "test": labels[:, None].double()})
    draw = Draw.of(material, "features", labels, per_class=None, seed=0)

    @own_attacker("a list")
    def a_list(task):
        return [Fit("", 0, lambda held: held)]

    with pytest.raises(TypeError, match="'a list' returned list; it must be a function that yields fits"):
        judge(a_list, draw, material, labels, 2, steps=(1,), seed=0)


def test_scores_that_are_not_finite_are_misses(own_attacker):
    labels = torch.arange(20) % 2
    rows = labels[:, None].double()

    @own_attacker("overflow")
    def overflow(task):
        yield Fit("", 1, lambda held: torch.full((len(held), 2), math.nan))

    material = Material({"train": rows, "test": rows})
    draw = Draw.of(material, "features", labels, per_class=None, seed=0)
    assert not judge(overflow, draw, material, labels, 2, steps=(1,), seed=0)[1].correct.any()


@pytest.mark.parametrize("changes", [{"steps": ()}, {"samples": (0,)}, {"seeds": (-1,)}, {"steps": (None,)}])
def test_budgets_that_cannot_be(changes):
    (name,) = changes
    with pytest.raises(ValueError, match=f"{name} must hold whole numbers"):
        Budgets(**changes)


def test_few_images_to_fit_on_are_few_to_choose_by():
    labels = torch.arange(1000) % 5
    rows = torch.randn(1000, 4)
    material = Material({"train": rows, "test": rows})
    for per_class, train, validation in ((8, 40, 10), (80, 400, 100), (None, 800, 200)):
        draw = Draw.of(material, "features", labels, per_class=per_class, seed=0)
        assert (len(draw.labels), len(draw.validation_labels)) == (train, validation)


def test_budgets_ascend_and_repeat_nothing():
    budgets = Budgets((None, 5, 10, 5), (30, 10), (None, 100), (100, 30), seeds=(1, 0, 1))
    assert budgets.samples == (5, 10, None)
    assert budgets.finetune_samples == (100, None)
    assert budgets.finetune_steps == (30, 100)
    assert budgets.seeds == (1, 0)
