"""The whole suite: every model measured alike, the report, bad input."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from datasets import ClassLabel
from planted import QUICK
from samples import tiny_vit
from tiny import Images, TinyNet, picture_dataset
from torch.utils.data import ConcatDataset, Subset

from hf_immunize import features_and_logits, run_attacks
from hf_immunize.attacks import AttackReport, Budgets
from hf_immunize.attacks.attacker import choose_attackers
from hf_immunize.attacks.report import largest
from hf_immunize.attacks.suite import AttackSuite
from hf_immunize.data.draw import at_most
from hf_immunize.data.images import ImageInputs
from hf_immunize.models.random_weights import random_weights


def counted(model, module, passes, name):
    """Counts the images that pass a module of the model or of a copy of it; rows of two are probing, and left out."""

    def hook(_, args):
        passes[name] += len(args[0]) if len(args[0]) > 2 else 0

    model.get_submodule(module).register_forward_pre_hook(hook)


def test_features_are_extracted_once_for_each_model_and_split(two_models):
    """However many attackers, seeds and budgets: what the models share runs once for all, the rest once for each."""
    passes = dict.fromkeys(("model, stem", "base, stem", "model, head", "base, head"), 0)
    for name, one in zip(("model", "base"), two_models, strict=True):
        counted(one, "stem", passes, f"{name}, stem")
        counted(one, "score", passes, f"{name}, head")
    run_attacks(*two_models, Images(70, seed=3), Images(40, seed=3), attackers="probes", budgets=QUICK, scratch=False)
    assert passes["model, stem"] + passes["base, stem"] == 110
    assert passes["model, head"] == passes["base, head"] == 110


def test_models_that_share_nothing_are_run_whole_in_float64(two_models):
    model, base = two_models
    with torch.no_grad():
        model.stem.weight += 0.1
    passes = dict.fromkeys(("model, stem", "base, stem"), 0)
    for name, one in zip(("model", "base"), two_models, strict=True):
        counted(one, "stem", passes, f"{name}, stem")
    suite = AttackSuite({"initial": base, "immunized": model}, Images(70, seed=3), Images(40, seed=3), budgets=QUICK)
    test = Images(40, seed=3)
    with torch.no_grad():
        expected = features_and_logits(copy.deepcopy(model).double(), test.x.double())[0]
    passes |= dict.fromkeys(passes, 0)
    torch.testing.assert_close(suite.features("immunized").features, expected, rtol=1e-12, atol=1e-12)
    assert suite.features("immunized") is suite.features("immunized")
    assert passes["model, stem"] == 40


def test_an_attacker_is_not_judged_on_what_it_was_fitted_to(two_models):
    data = Images(70)
    with pytest.raises(ValueError, match="what was fitted to them would be judged on them"):
        run_attacks(*two_models, data, data, budgets=QUICK)


def test_the_same_rows_in_another_object_are_the_same_rows():
    (model, processor), rows = tiny_vit(), picture_dataset(20, size=32)
    with pytest.raises(ValueError, match="the same rows"):
        run_attacks(model, tiny_vit()[0], rows, rows.select(range(20)), image_processor=processor)


def test_a_model_is_not_attacked_beside_itself():
    model = TinyNet()
    for other in (model, torch.compile(model)):
        with pytest.raises(ValueError, match="the same object"):
            run_attacks(other, model, Images(20), Images(10, seed=1))


def test_an_attacker_is_judged_by_classes_of_the_same_names():
    model, processor = tiny_vit()
    train, test = picture_dataset(40, size=32), picture_dataset(30, size=32, seed=1)
    labels = [1 - label for label in test["label"]]
    swapped = test.remove_columns("label").add_column(
        "label", labels, feature=ClassLabel(names=train.features["label"].names[::-1])
    )
    found = [
        run_attacks(model, tiny_vit()[0], train, one, image_processor=processor, attackers="ridge", scratch=False)
        for one in (test, swapped)
    ]
    told = [{key: value for key, value in one.to_dict().items() if key != "seconds"} for one in found]
    assert told[0] == told[1]


def test_a_suite_measures_all_models_alike_and_changes_none(two_models):
    model, base = two_models
    before = [copy.deepcopy(one.state_dict()) for one in two_models]
    report = run_attacks(
        model,
        base,
        Images(90, seed=5),
        Images(60, seed=5),
        control=copy.deepcopy(base),
        primary_only=random_weights(base, seed=9),
        public=copy.deepcopy(base),
        primary=Images(30, seed=1),
        benign_train=Images(60, n_classes=2, seed=8),
        benign_test=Images(30, n_classes=2, seed=8),
        attackers="all",
        budgets=QUICK,
    )
    assert report.models == ["initial", "control", "immunized", "scratch", "primary_only", "public"]
    assert list(report.attackers) == [one.name for one in choose_attackers("all")]
    for one in report.attackers.values():
        # The control is the initial model here, and is found to be.
        assert one["accuracy"]["control"] == one["accuracy"]["initial"]
        assert all(len(cell["seeds"]) == 2 for cell in one["accuracy"]["immunized"]["all"].values())
    assert report.attackers["last block"]["accuracy"]["initial"]["all"].keys() == {"2", "6"}
    assert report.selectivity["control"] == report.selectivity["initial"]
    assert report.selectivity["cost"] == pytest.approx(
        report.selectivity["control"]["mean"] - report.selectivity["immunized"]["mean"]
    )
    assert set(report.exact_steps) == set(report.models)
    # The public weights are the initial model's here, so that it adds nothing to them.
    assert report.uplift["ceilings"] == ["scratch", "primary_only", "public"]
    for by_model in report.uplift["worst_case"].values():
        assert all(cell["value"] <= 1e-12 for by_steps in by_model["initial"].values() for cell in by_steps.values())
    tuned = report.selectivity["fine-tuning"]
    assert list(tuned) == ["2", "6"]
    for means in tuned.values():
        assert set(means) == {*report.models, "against", "cost"}
        assert means["cost"] == pytest.approx(means["control"]["mean"] - means["immunized"]["mean"])
    for one, kept in zip(two_models, before, strict=True):
        assert all(torch.equal(value, kept[name]) for name, value in one.state_dict().items())
    assert set(report.seconds) == set(report.attackers)
    assert min(report.seconds.values()) > 0
    again = AttackReport.from_dict(json.loads(json.dumps(report.to_dict())))
    assert again == report
    assert str(again) == str(report)
    assert report.verdict["text"] in str(report)


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
    found = AttackSuite({"initial": base, "ours": model, "other": base}, *data, **options).run(["ours", "other"])
    assert list(found) == ["ours", "other"]
    assert found["ours"] == run_attacks(model, base, *data, **options)
    accuracy = found["other"].attackers["last block"]["accuracy"]
    assert accuracy["immunized"] == accuracy["initial"]


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


def test_no_more_images_than_asked_for_are_attacked_with(two_models):
    sets = {"train": Images(40, seed=1), "test": Images(24, seed=2)}
    named = {"attackers": "ridge regression", "budgets": Budgets((None,), (5,), seeds=(0,)), "scratch": False}
    few = run_attacks(*two_models, **sets, **named, max_samples=20, seed=3)
    same = run_attacks(*two_models, *(at_most(one, 20, seed=3) for one in sets.values()), **named)
    assert (few.n_train, few.n_test) == (20, 20)
    assert few.notes == [
        "Of 40 harmful train images 20 were drawn (max_samples).",
        "Of 24 harmful test images 20 were drawn (max_samples).",
    ]
    assert few.attackers == same.attackers


def test_a_budget_above_what_there_is_is_noted(two_models):
    budgets = Budgets((10, 100), (5,), seeds=(0,))
    report = run_attacks(*two_models, Images(60), Images(30), attackers="ridge regression", budgets=budgets)
    assert "budgets above that took what there is" in report.notes[0]
    assert list(report.attackers["ridge regression"]["accuracy"]["initial"]) == ["10", "100"]


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
    other, few = copy.deepcopy(model), {"attackers": ["ridge regression", "L-BFGS"], "scratch": False}
    report = run_attacks(model, other, data[:300], data[300:], budgets=QUICK, **few)
    for one in report.attackers.values():
        assert largest(one["accuracy"]["immunized"])["mean"] > 0.9


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


def test_random_weights_are_drawn_anew_for_every_seed(two_models, monkeypatch):
    drawn = []

    def recorded(model, batches, seed):
        drawn.append(seed)
        return random_weights(model, batches, seed)

    monkeypatch.setattr("hf_immunize.attacks.suite.random_weights", recorded)

    def accuracies(seeds):
        budgets = Budgets((None,), (20,), seeds=seeds)
        report = run_attacks(
            *two_models, Images(120), Images(60, seed=1), attackers="ridge regression", budgets=budgets
        )
        return report.attackers["ridge regression"]["accuracy"]["scratch"]["all"]["20"]["seeds"]

    both = accuracies((4, 7))
    assert drawn == [4, 7]
    assert both == accuracies((4,)) + accuracies((7,))


def test_parts_of_a_set_that_number_the_classes_otherwise_are_one_task():
    """Attackers that are fitted on two numberings look weaker than they are."""
    model, base = TinyNet().eval(), TinyNet().eval()
    processor = tiny_vit()[1]

    def part(names, number, seed):
        rows = picture_dataset(24, n_classes=2, seed=seed)
        labels = [number[label] for label in rows["label"]]
        rows = rows.remove_columns("label").add_column("label", labels)
        return ImageInputs(rows.cast_column("label", ClassLabel(names=names)), processor)

    dark, bright = part(["dark", "bright"], [0, 1], 1), part(["bright", "dark"], [1, 0], 2)
    same = ConcatDataset([dark, part(["dark", "bright"], [0, 1], 2)])
    judged = part(["dark", "bright"], [0, 1], 3)
    found = [
        run_attacks(model, base, one, judged, attackers="ridge", budgets=QUICK, scratch=False).attackers[
            "ridge regression"
        ]["accuracy"]["immunized"]
        for one in (same, ConcatDataset([dark, bright]))
    ]
    assert found[0] == found[1]
