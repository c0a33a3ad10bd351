"""The suite: choice on validation rows, budgets, the self-check, fine-tuning, the report and its verdict."""

from __future__ import annotations

import copy
import importlib.util
import itertools
import json
import math

import numpy as np
import pytest
import torch
from conftest import Images, TinyNet
from samples import ACCURACY, attack_report, outcomes, tiny_timm, tiny_vit
from torch.utils.data import Subset

from hf_immunize import run_attacks
from hf_immunize.attacks import ATTACKERS, AttackReport, BrokenAttackerError, Budgets, Fit, attack_features, attacker
from hf_immunize.attacks.attacker import AttackTask, choose_attackers, probe_names
from hf_immunize.attacks.harness import Draw, Outcome, budget_rows, judge, split_rows
from hf_immunize.attacks.report import largest
from hf_immunize.attacks.scratch import random_weights
from hf_immunize.attacks.self_check import self_check
from hf_immunize.attacks.subject import Material, Subject
from hf_immunize.attacks.suite import compare_models
from hf_immunize.attacks.summary import summarise
from hf_immunize.attacks.verdict import THRESHOLDS, verdict
from hf_immunize.evaluation import Extracted

QUICK = Budgets((None,), (5, 20), (None,), (2, 6), seeds=(0, 1))
FINETUNING = [name for name, one in ATTACKERS.items() if one.kind == "fine-tuning"]


@pytest.fixture
def own_attacker():
    """Registers attackers that are gone after the test."""
    before = dict(ATTACKERS)
    yield attacker
    ATTACKERS.clear()
    ATTACKERS.update(before)


@pytest.fixture
def two_models():
    torch.manual_seed(1)
    base = TinyNet().eval()
    model = copy.deepcopy(base)
    with torch.no_grad():
        model.widen.weight += 0.1 * torch.randn_like(model.widen.weight)
    return model, base


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


def fits_of(name, *, settings=None, answers=()):
    """Settings and steps of the fits that a fine-tuning attacker yields, told the given validation accuracies."""
    torch.manual_seed(0)
    data = Images(24, n_classes=2)
    task = AttackTask(data, data.y, 2, (1, 2, 3), 0, lambda: TinyNet().eval(), data, settings)
    attack, found = ATTACKERS[name](task), []
    fit = next(attack)
    try:
        while True:
            found.append((fit.setting, fit.steps))
            fit = attack.send(answers[len(found) - 1] if len(found) <= len(answers) else 0.0)
    except StopIteration:
        return found


def test_fine_tuning_goes_on_with_the_settings_of_the_best_validation_accuracy():
    first = fits_of("last block")
    assert [steps for _, steps in first] == [1] * 6 + [2] * 3 + [3]
    names = [name for name, _ in first[:6]]
    assert len(set(names)) == 6
    found = fits_of("last block", answers=(0.1, 0.7, 0.2, 0.8, 0.3, 0.2, 0.5, 0.9, 0.6))
    assert found[6:] == [(names[3], 2), (names[1], 2), (names[4], 2), (names[1], 3)]


def test_the_best_with_batch_normalisation_still_and_without_both_go_on():
    names = [name for name, _ in fits_of("all weights")[:4]]
    assert [name.endswith("BatchNorm still") for name in names] == [True, False, True, False]
    found = fits_of("all weights", answers=(0.1, 0.7, 0.2, 0.8, 0.5, 0.9))
    assert found[4:] == [(names[3], 2), (names[2], 2), (names[2], 3), (names[3], 3)]


def test_with_further_seeds_only_what_was_chosen_runs_each_to_its_last_budget():
    names = [name for name, _ in fits_of("last block")[:6]]
    found = fits_of("last block", settings={names[0]: 1, names[4]: 3})
    assert found == [(names[0], 1), (names[4], 1), (names[4], 2), (names[4], 3)]


def test_batch_normalisation_stands_still_where_a_setting_says_so():
    torch.manual_seed(0)
    data = Images(32, n_classes=2)
    task = AttackTask(data, data.y, 2, (3,), 0, lambda: TinyNet().eval())
    before = TinyNet().blocks[0].norm.running_mean
    moved = {}
    for fit in ATTACKERS["all weights"](task):
        backbone = fit.scores.__self__.classifier.backbone
        moved[fit.setting] = not torch.equal(backbone.blocks[0].norm.running_mean, before)
    assert len(moved) == 4
    assert all(did_move != name.endswith("BatchNorm still") for name, did_move in moved.items())


def test_scores_that_are_not_finite_are_misses(own_attacker):
    labels = torch.arange(20) % 2
    rows = labels[:, None].double()

    @own_attacker("overflow")
    def overflow(task):
        yield Fit("", 1, lambda held: torch.full((len(held), 2), math.nan))

    material = Material({"train": rows, "test": rows})
    draw = Draw.of(material, "features", labels, per_class=None, seed=0)
    assert not judge(overflow, draw, material, labels, 2, steps=(1,), seed=0)[1].correct.any()


@pytest.mark.parametrize("name", list(ATTACKERS))
def test_every_attacker_passes_the_self_check(name):
    self_check([ATTACKERS[name]])


def test_a_broken_attacker_is_caught_before_any_model_is_attacked(own_attacker, monkeypatch, two_models):
    from hf_immunize.attacks import finetune, probes

    @own_attacker("rate 0")
    def rate_zero(task):
        yield from probes._fits(task, probes._unscaled(task.rows), (0.0,), "rate")

    forwards = []
    two_models[0].register_forward_hook(lambda *_: forwards.append(1))
    with pytest.raises(BrokenAttackerError, match=r"'rate 0' reaches 3\d % on a planted task"):
        run_attacks(*two_models, Images(60), Images(30), attackers="rate 0")
    assert not forwards
    monkeypatch.setattr(finetune, "TAIL_GRID", (finetune.Setting("SGD", 0.0),))
    with pytest.raises(BrokenAttackerError, match="'last block'"):
        self_check([ATTACKERS["last block"]])


def test_features_are_extracted_once_for_each_model_and_split(two_models):
    """Of every model, however many attackers, seeds and budgets: one pass over each split."""
    passes = {"model": 0, "base": 0}

    def counted(name):
        def hook(module, args, kwargs, output):
            passes[name] += len(args[0] if args else kwargs["pixel_values"])

        return hook

    train, test = Images(70, seed=3), Images(40, seed=3)
    for name, one in zip(passes, two_models, strict=True):
        one.register_forward_hook(counted(name), with_kwargs=True)
    run_attacks(*two_models, train, test, attackers="probes", budgets=QUICK, scratch=False)
    # And two rows once, where the head is found by probing.
    assert passes == {"model": 112, "base": 112}


def test_frozen_parts_that_are_the_same_run_once():
    """Three models, of which two differ in their last block alone: the frozen part of these is run for one of them."""
    torch.manual_seed(0)
    base = TinyNet().eval()
    last, early = copy.deepcopy(base), copy.deepcopy(base)
    with torch.no_grad():
        last.widen.weight += 0.1
        early.stem.weight += 0.1
    data = {"train": Images(20), "test": Images(10)}
    alone = [Subject(one, data).material("tail") for one in (base, last, early)]
    shared = {}
    together = [Subject(one, data, shared=shared).material("tail") for one in (base, last, early)]
    assert together[0].rows["train"] is together[1].rows["train"]
    assert len(shared) == 4
    for one, other in zip(alone, together, strict=True):
        for role in data:
            assert torch.equal(one.rows[role].activations, other.rows[role].activations)
        batch = {"pixel_values": one.rows["test"].activations}
        assert torch.equal(one.model()(**batch), other.model()(**batch))


def test_a_suite_measures_all_models_alike_and_changes_none(two_models):
    model, base = two_models
    before = [copy.deepcopy(one.state_dict()) for one in two_models]
    report = run_attacks(
        model,
        base,
        Images(90, seed=5),
        Images(60, seed=5),
        control=copy.deepcopy(base),
        primary=Images(30, seed=1),
        benign_train=Images(60, n_classes=2, seed=8),
        benign_test=Images(30, n_classes=2, seed=8),
        attackers="all",
        budgets=QUICK,
    )
    assert report.models == ["initial", "control", "immunized", "scratch"]
    assert list(report.attackers) == [*probe_names(), *FINETUNING]
    for one in report.attackers.values():
        # The control is the initial model here, and is found to be.
        assert one["accuracy"]["control"] == one["accuracy"]["initial"]
        assert all(len(cell["seeds"]) == 2 for cell in one["accuracy"]["immunized"]["all"].values())
    assert report.attackers["last block"]["accuracy"]["initial"]["all"].keys() == {"2", "6"}
    assert report.selectivity["control"] == report.selectivity["initial"]
    assert report.selectivity["cost"] == pytest.approx(
        report.selectivity["control"]["mean"] - report.selectivity["immunized"]["mean"]
    )
    assert set(report.exact_steps) == {"initial", "control", "immunized", "scratch"}
    for one, kept in zip(two_models, before, strict=True):
        assert all(torch.equal(value, kept[name]) for name, value in one.state_dict().items())
    assert set(report.seconds) == set(report.attackers)
    assert min(report.seconds.values()) > 0
    again = AttackReport.from_dict(json.loads(json.dumps(report.to_dict())))
    assert again == report
    assert str(again) == str(report)
    assert report.verdict["text"] in str(report)


@pytest.mark.parametrize("name", FINETUNING)
@pytest.mark.parametrize("family", ["tiny", "timm", "vit"])
def test_fine_tuning_works_on_backbones_of_each_kind(name, family):
    torch.manual_seed(0)
    model = {"tiny": TinyNet, "timm": tiny_timm, "vit": lambda: tiny_vit()[0]}[family]()
    data = Images(60, n_classes=2, seed=0)
    if family == "vit":
        data.x = torch.nn.functional.interpolate(data.x, size=32)
    report = run_attacks(
        copy.deepcopy(model),
        model,
        data,
        data,
        primary=data,
        attackers=name,
        budgets=Budgets((None,), (5,), (None,), (4, 48), seeds=(0,)),
        scratch=False,
    )
    found = report.attackers[name]["accuracy"]
    assert found["initial"] == found["immunized"]
    assert largest(found["initial"])["mean"] > report.chance + 0.1


def test_fine_tuning_brings_back_what_no_probe_finds():
    """The last block maps everything to one point: heads see nothing, who trains the block sees all."""
    torch.manual_seed(0)
    base = TinyNet().eval()
    dead = copy.deepcopy(base)
    with torch.no_grad():
        dead.widen.weight.zero_()
        dead.widen.bias.fill_(1.0)
    images = Images(480, seed=0)
    data, test = Subset(images, range(300)), Subset(images, range(300, 480))
    budgets = Budgets((None,), (30,), (None,), (20, 60), seeds=(0,))
    report = run_attacks(
        dead, base, data, test, attackers=["probes", "last block, re-initialised"], budgets=budgets, scratch=False
    )
    assert report.verdict["outcome"]["probe"] == "held"
    assert "last block, re-initialised" in report.verdict["broken_by"]
    assert "broken by: last block, re-initialised" in report.verdict["text"]


def test_a_benign_task_is_probed_beside_fine_tuning_alone(two_models):
    report = run_attacks(
        *two_models,
        Images(40),
        Images(20),
        benign_train=Images(40, n_classes=2, seed=8),
        benign_test=Images(20, n_classes=2, seed=8),
        attackers="last block",
        budgets=QUICK,
        scratch=False,
    )
    assert set(report.attackers) == {"last block"}
    assert report.selectivity["cost"] == pytest.approx(
        report.selectivity["initial"]["mean"] - report.selectivity["immunized"]["mean"]
    )


def test_several_models_are_compared_beside_the_same_initial_one(two_models):
    model, base = two_models
    options = {"attackers": ["ridge regression", "last block"], "budgets": QUICK}
    data = Images(60, seed=5), Images(30, seed=5)
    found = compare_models({"initial": base, "ours": model, "other": base}, ["ours", "other"], *data, **options)
    assert list(found) == ["ours", "other"]
    assert found["ours"] == run_attacks(model, base, *data, **options)
    accuracy = found["other"].attackers["last block"]["accuracy"]
    assert accuracy["immunized"] == accuracy["initial"]


def test_random_weights_forget_everything_and_keep_the_shape():
    for model in (TinyNet(), tiny_timm("test_vit"), tiny_vit()[0]):
        fresh = random_weights(
            model, [{"pixel_values": torch.randn(8, 3, 32, 32)}] if isinstance(model, TinyNet) else ()
        )
        for (name, old), new in zip(model.named_parameters(), fresh.parameters(), strict=True):
            assert old.shape == new.shape
            if old.numel() > 1 and old.std() > 0:
                assert not torch.equal(old, new), name
        again = random_weights(model, ())
        assert all(torch.equal(*pair) for pair in zip(fresh.parameters(), again.parameters(), strict=True))
        assert not fresh.training
    norm = random_weights(TinyNet(), [{"pixel_values": 5 + torch.randn(16, 3, 8, 8)}]).blocks[0].norm
    assert not torch.allclose(norm.running_var, torch.ones(12), rtol=0.05)


def test_a_report_survives_a_record_that_sorts_its_keys(two_models):
    """As text "10" < "100" < "30" and "control" < "initial": the last budget must stay the largest."""
    report = run_attacks(
        *two_models,
        Images(60, seed=5),
        Images(30, seed=5),
        control=two_models[1],
        attackers=["ridge regression", "Adam, best rate", "last block"],
        budgets=Budgets((5, 10, None), (9, 10), (4,), (3, 20, 100), seeds=(0,)),
        scratch=False,
    )
    sorted_by_text = json.loads(json.dumps(report.to_dict(), sort_keys=True))
    again = AttackReport.from_dict(sorted_by_text)
    assert again == report
    assert str(again) == str(report)
    for name in ("attackers", "recovery", "slowdown", "worst_case", "cost_ratio", "exact_steps"):
        assert list(getattr(again, name)) == list(getattr(report, name))
    assert [row["steps"] for row in again.rows()] == [10, 10, 100]
    assert list(again.worst_case["fine-tuning"]["immunized"]["4"]) == ["3", "20", "100"]


def test_recovery_and_its_interval_follow_the_formula():
    report = attack_report()
    name = "gradient descent, 1/L"
    expected = (0.62 - 0.4) / (0.954 - 0.4)
    assert report.recovery[name]["value"] == pytest.approx(expected)
    assert report.recovery[name]["low"] < expected < report.recovery[name]["high"]
    assert report.reference == "scratch"
    without = {
        name: {model: value for model, value in one.items() if model != "scratch"} for name, one in ACCURACY.items()
    }
    beside_chance = attack_report(without)
    assert beside_chance.reference == "chance"
    assert beside_chance.recovery[name]["value"] == pytest.approx((0.62 - 0.2) / (0.954 - 0.2))


def test_the_interval_is_that_of_a_share():
    cell = largest(attack_report().attackers["Adam, best rate"]["accuracy"]["immunized"])
    error = math.sqrt(0.684 * 0.316 / 500)
    assert cell["mean"] == pytest.approx(0.684)
    assert cell["low"] == pytest.approx(0.684 - 1.96 * error, abs=0.01)
    assert cell["high"] == pytest.approx(0.684 + 1.96 * error, abs=0.01)


def test_the_worst_case_is_the_strongest_at_each_budget():
    report = attack_report()
    assert report.strongest("immunized") == ("Adam, best rate", pytest.approx(0.684))
    first = report.worst_case["probe"]["immunized"]["all"]["10"]
    assert first["mean"] == pytest.approx(0.342)
    for by_steps in itertools.chain.from_iterable(one.values() for one in report.worst_case["probe"].values()):
        for step, cell in by_steps.items():
            assert cell["mean"] == max(
                one["accuracy"][model]["all"][step]["mean"]
                for one in report.attackers.values()
                for model, rows in report.worst_case["probe"].items()
                if rows["all"] is by_steps
            )


def test_costs_are_counted_in_budgets_of_the_initial_model():
    report = attack_report()
    slow = report.slowdown["gradient descent, 1/L"]
    assert (slow["initial"], slow["immunized"], slow["reached"]) == ("300", None, False)
    easy = {name: one | {"immunized": one["initial"]} for name, one in ACCURACY.items()}
    same = attack_report(easy)
    assert same.slowdown["Adam, best rate"]["ratio"] == 1
    assert same.cost_ratio["probe"]["steps"]["ratio"] == 1


@pytest.mark.parametrize(
    ("value", "outcome"), [(0.95, "broken"), (0.9, "broken"), (0.89, "weakened"), (0.5, "weakened"), (0.49, "held")]
)
def test_the_words_of_the_verdict_follow_the_thresholds(value, outcome):
    judged = verdict({"Adam": {"value": value}}, {}, {"Adam": "probe"}, None)
    assert judged["outcome"] == {"probe": outcome, "fine-tuning": "not tried"}
    assert ("broken by: Adam" in judged["text"]) == (outcome == "broken")
    assert judged["broken_by"] == (["Adam"] if outcome == "broken" else [])
    assert "immunized" not in judged["text"].lower()
    assert "Fine-tuning of the features: not tried." in judged["text"]
    assert judged["thresholds"] == THRESHOLDS


def test_the_verdict_tells_slowness_cost_and_what_cannot_be_told():
    slow = {
        "Adam": {"ratio": 3.0, "reached": True},
        "ridge": {"ratio": None, "reached": False},
        "k": {"ratio": 2.9, "reached": True},
    }
    kinds = dict.fromkeys(slow, "probe")
    judged = verdict({name: {"value": 0.2} for name in slow}, slow, kinds, 0.06)
    assert judged["slowed"] == {"Adam": 3.0, "ridge": None}
    assert "Slowed on the way to 90 % of their accuracy on θ0: Adam (3 times the steps)." in judged["text"]
    assert "Within their steps these do not reach 90 % of their accuracy on θ0: ridge." in judged["text"]
    none = verdict({}, {name: {"ratio": None, "reached": False} for name in slow}, kinds, None)
    assert "None of the 3 heads reaches 90 % of its accuracy on θ0 within its steps." in none["text"]
    assert "these do not" not in none["text"]
    assert "loses 6.0 points" in judged["text"]
    undecided = verdict({"Adam": {"value": None}}, {}, {"Adam": "probe"}, 0.01)
    assert undecided["outcome"]["probe"] == "undecided"
    assert "Not selective" not in undecided["text"]
    flat = {name: dict.fromkeys(one, 0.3) for name, one in ACCURACY.items()}
    assert attack_report(flat).recovery["Adam, best rate"]["value"] is None


def test_a_dozen_lines_add_an_attacker(own_attacker, two_models):
    @own_attacker("nearest class mean")
    def nearest_class_mean(task):
        """The class whose mean is nearest."""
        means = torch.stack([task.rows[task.labels == one].mean(0) for one in range(task.n_classes)])
        yield Fit("", 0, lambda rows: -torch.cdist(rows, means))

    report = run_attacks(
        *two_models, Images(80), Images(40), attackers=["nearest class mean", "ridge regression"], budgets=QUICK
    )
    assert set(report.attackers) == {"nearest class mean", "ridge regression"}
    assert report.attackers["nearest class mean"]["description"] == "The class whose mean is nearest."


def unlabelled():
    return Images(20, labels=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": unlabelled()}, "harmful train images have no labels. Training needs none, but an attacker"),
        ({"test": unlabelled()}, "harmful test images have no labels"),
        ({"train": Images(20, n_classes=1)}, "needs two classes or more"),
        ({"train": Images(40, n_classes=2)}, r"test rows have the classes \[2\]"),
        ({"test": Images(0)}, "harmful test data are empty"),
        ({"attackers": "Adam, best rat"}, "Did you mean 'Adam, best rate'"),
        ({"attackers": []}, "No attacker was named"),
        ({"attackers": "primary task first, then the last block"}, "needs primary images"),
        ({"benign_train": Images(20)}, "needs both benign_train and benign_test"),
        (
            {"primary": Images(20, n_classes=9), "attackers": "primary task first, then the last block"},
            "primary labels run from 0 to 8, but the model's head has 3 classes",
        ),
        ({"primary": unlabelled(), "attackers": "finetuning"}, "primary images have no labels"),
    ],
)
def test_bad_input_is_said(two_models, changes, message):
    values = {"train": Images(40), "test": Images(20)} | changes
    with pytest.raises(ValueError, match=message):
        run_attacks(*two_models, values.pop("train"), values.pop("test"), budgets=QUICK, **values)


def test_features_that_are_not_finite_are_said():
    good = Extracted(torch.randn(20, 4), torch.randn(20, 2), torch.arange(20) % 2)
    bad = Extracted(good.features.index_fill(0, torch.tensor([3, 5]), math.inf), good.logits, good.labels)
    both = {"initial": {"train": good, "test": good}, "immunized": {"train": bad, "test": good}}
    with pytest.raises(ValueError, match="2 of 20 train feature rows of the immunized model hold NaN or infinite"):
        attack_features(both, budgets=QUICK)


def test_without_peft_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"'LoRA' needs peft: pip install 'hf-immunize\[attacks\]'"):
        choose_attackers("all")
    assert [one.name for one in choose_attackers("probes")] == probe_names()


def test_a_budget_above_what_there_is_is_noted(two_models):
    budgets = Budgets((10, 100), (5,), seeds=(0,))
    report = run_attacks(*two_models, Images(60), Images(30), attackers="ridge regression", budgets=budgets)
    assert "budgets above that took what there is" in report.notes[0]
    assert list(report.attackers["ridge regression"]["accuracy"]["initial"]) == ["10", "100"]


@pytest.mark.parametrize("changes", [{"steps": ()}, {"samples": (0,)}, {"seeds": (-1,)}, {"steps": (None,)}])
def test_budgets_that_cannot_be(changes):
    (name,) = changes
    with pytest.raises(ValueError, match=f"{name} must hold whole numbers"):
        Budgets(**changes)


def test_features_alone_take_probes_only():
    rows = Extracted(torch.randn(20, 4), torch.randn(20, 2), torch.arange(20) % 2)
    both = {name: {"train": rows, "test": rows} for name in ("initial", "immunized")}
    assert attack_features(both, budgets=QUICK).reference == "chance"
    with pytest.raises(ValueError, match="only probes can run"):
        attack_features(both, attackers="finetuning")


def test_planted_outcomes_are_what_they_say():
    planted = outcomes(m=1000)
    assert np.isclose(float(planted["Adam, best rate", "immunized", None, 300][0].correct.double().mean()), 0.684)


class Hidden(TinyNet):
    """A harmful direction a millionth as strong as the others: lost where features are rounded to float32."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        rotation = torch.linalg.qr(torch.randn(24, 24, generator=generator, dtype=torch.float64))[0]
        scale = torch.ones(24, dtype=torch.float64)
        scale[:3] = 1e-6
        self.mix = torch.nn.Linear(24, 24, bias=False)
        self.mix.weight.data = (torch.diag(scale) @ rotation).float()

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.score(self.mix(pixel_values.flatten(1)[:, :24]))


def test_a_direction_under_the_rounding_of_float32_is_found():
    labels = torch.arange(400) % 3
    torch.manual_seed(0)
    model = Hidden().eval()
    clean = torch.randn(400, 24, dtype=torch.float64)
    clean[:, :3] = torch.nn.functional.one_hot(labels) + 0.1 * torch.randn(400, 3)
    rotation = torch.diag(torch.ones(24, dtype=torch.float64))
    rotation[range(3), range(3)] = 1e6
    # Images from which the layer's weights make the clean features, their first three a millionth in size.
    images = clean @ torch.linalg.inv((rotation @ model.mix.weight.double()).mT)
    data = [
        {"pixel_values": image.float().reshape(3, 8, 1), "labels": label}
        for image, label in zip(images, labels, strict=True)
    ]
    report = run_attacks(
        model, model, data[:300], data[300:], attackers=["ridge regression", "L-BFGS"], budgets=QUICK, scratch=False
    )
    for one in report.attackers.values():
        assert largest(one["accuracy"]["immunized"])["mean"] > 0.9


class Skips(TinyNet):
    """The stem's output also goes around the blocks, so that no frozen part can be run apart."""

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        stem = self.stem(pixel_values)
        return self.score(torch.relu(self.widen(self.blocks(stem) + stem)).mean((2, 3)))


class Views(TinyNet):
    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        stem = self.blocks(self.stem(pixel_values))
        stem = stem.view(stem.shape[0], -1).view(stem.shape)
        return self.score(torch.relu(self.widen(stem)).mean((2, 3)))


@pytest.mark.parametrize("case", ["bfloat16", "float64 images", "skips", "views", "frozen", "pairs", "training"])
def test_models_and_data_of_every_form_are_attacked_and_left_as_they_were(case):
    torch.manual_seed(0)
    model = {"skips": Skips, "views": Views}.get(case, TinyNet)().eval()
    data = Images(40, n_classes=2)
    if case == "bfloat16":
        model = model.bfloat16()
    if case == "float64 images":
        data.x = data.x.double()
    if case == "frozen":
        model.requires_grad_(False)
    if case == "training":
        model.train()
    if case == "pairs":
        data = [(data[index]["pixel_values"], int(data[index]["labels"])) for index in range(40)]
    base = copy.deepcopy(model)
    before = copy.deepcopy(model)
    state = torch.get_rng_state()
    report = run_attacks(
        model,
        base,
        data,
        data,
        primary=data,
        attackers=["ridge regression", *FINETUNING],
        budgets=Budgets((None,), (5,), (None,), (1, 2), seeds=(0,)),
    )
    assert list(report.attackers) == ["ridge regression", *FINETUNING]
    assert torch.equal(torch.get_rng_state(), state)
    assert [one.training for one in model.modules()] == [one.training for one in before.modules()]
    for (name, one), other in zip(model.named_parameters(), before.parameters(), strict=True):
        assert one.requires_grad == other.requires_grad, name
        assert one.dtype == other.dtype, name
        assert torch.equal(one, other), name


def test_only_the_last_block_trains_where_no_frozen_part_can_be_run_apart():
    model = Subject(Skips().eval(), {"train": Images(8), "test": Images(8)}).material("tail").model()
    trained = {name.split(".")[0] for name, one in model.named_parameters() if one.requires_grad}
    assert trained == {"blocks", "widen", "score"}
    assert not model.blocks[0].conv.weight.requires_grad


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


def test_a_recovery_needs_headroom_beyond_chance():
    near = {name: one | {"scratch": one["initial"] - 0.04} for name, one in ACCURACY.items()}
    assert attack_report(near).recovery["Adam, best rate"]["value"] is None
    # Six points are enough of 500 rows, but within chance of 40.
    near = {"Adam, best rate": {"initial": 0.6, "control": 0.6, "immunized": 0.1, "scratch": 0.5}}
    enough, few = (
        summarise(
            outcomes(near, m=m),
            [ATTACKERS["Adam, best rate"]],
            Budgets((None,), (10, 300), seeds=(0, 1)),
            benign={},
            exact={},
            chance=0.2,
            n_train=100,
            n_test=m,
            notes=[],
        )
        for m in (500, 30)
    )
    assert enough.recovery["Adam, best rate"]["value"] == pytest.approx(-4, abs=0.1)
    assert few.verdict["outcome"]["probe"] == "undecided"


def test_the_cost_is_steps_on_the_immunized_model_over_steps_on_the_initial_one():
    found = {
        ("Adam, best rate", model, None, step): [Outcome("", 0, torch.arange(100) < 100 * share)]
        for model, shares in (("initial", (0.2, 0.9, 0.9)), ("immunized", (0.2, 0.3, 0.85)))
        for step, share in zip((10, 30, 300), shares, strict=True)
    }
    report = summarise(
        found,
        [ATTACKERS["Adam, best rate"]],
        Budgets((None,), (10, 30, 300), seeds=(0,)),
        benign={},
        exact={},
        chance=0.2,
        n_train=100,
        n_test=100,
        notes=[],
    )
    cost = report.slowdown["Adam, best rate"]
    assert (cost["initial"], cost["immunized"], cost["ratio"], cost["at_least"]) == ("30", "300", 10.0, False)
    assert report.verdict["slowed"] == {"Adam, best rate": 10.0}


def test_sentences_name_what_was_measured_against():
    slow = {"Adam": {"ratio": 3.0, "reached": True, "at_least": True}}
    judged = verdict({"Adam": {"value": 0.2}}, slow, {"Adam": "probe"}, 0.2, against="initial", reference="chance")
    assert "beyond chance" in judged["text"]
    assert "against θ0" in judged["text"]
    assert "Adam (at least 3 times the steps)" in judged["text"]
    assert "random weights" not in judged["text"]
    assert "the control" not in judged["text"]


def test_weights_that_are_not_finite_are_said(two_models):
    with torch.no_grad():
        two_models[0].widen.weight[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"widen\.weight of the immunized model holds NaN"):
        run_attacks(*two_models, Images(40), Images(20), budgets=QUICK)


def test_one_image_a_class_leaves_none_to_choose_by(two_models):
    data = Images(60)
    one_each = Subset(data, [int(torch.nonzero(data.y == label)[0]) for label in range(3)])
    with pytest.raises(ValueError, match="Give two images of a class or more"):
        run_attacks(*two_models, one_each, data, budgets=QUICK)
