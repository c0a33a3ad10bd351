"""The paper's protocol, and RIR of one model against another."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from samples import tiny_vit
from tiny import Images, TinyNet, direct, picture_dataset
from torch.utils.data import Subset

from hf_immunize import evaluate_immunization, relative_immunization_ratio
from hf_immunize.data.draw import at_most
from hf_immunize.data.images import ImageInputs
from hf_immunize.metrics.report import Protocol, rir_report


@pytest.fixture
def models():
    torch.manual_seed(3)
    base, other = TinyNet().eval(), TinyNet().eval()
    return other, base


def kappa(rows):
    """κ of XᵀX on the span by NumPy, of features with full row rank."""
    values = np.linalg.svd(rows.numpy(), compute_uv=False)
    return (values[0] / values[min(rows.shape) - 1]) ** 2


def test_rir_is_the_ratio_of_condition_numbers_by_hand(models, primary, harmful):
    model, base = models
    protocol = Protocol(groups=6, group_size=12, seed=4)
    report = evaluate_immunization(model, base, primary, harmful, protocol=protocol, batch_size=13, float64=True)
    rows = {"primary": protocol.indices(96), "harmful": protocol.indices(40)}
    harm = [kappa(direct(model, harmful.x)[one]) / kappa(direct(base, harmful.x)[one]) for one in rows["harmful"]]
    keep = [kappa(direct(model, primary.x)[one]) / kappa(direct(base, primary.x)[one]) for one in rows["primary"]]
    ratios = np.array(harm) / np.array(keep)
    assert report.rir_i == pytest.approx(np.mean(harm), rel=1e-6)
    assert report.rir_ii == pytest.approx(np.mean(keep), rel=1e-6)
    assert report.rir == pytest.approx(np.mean(ratios), rel=1e-6)
    values = report.to_dict()
    assert values["rir"]["spread"] == pytest.approx(np.std(ratios, ddof=1), rel=1e-6)
    assert values["rir"]["median"] == pytest.approx(torch.tensor(ratios).median().item(), rel=1e-6)
    assert values["rir"]["bound"] == "exact"
    assert values["protocol"] == {"groups": 6, "group_size": 12, "group_size_asked": 12, "seed": 4, "dtype": "float64"}
    assert set(values["ranks"].values()) == {12}
    assert (values["n_harmful"], values["n_primary"]) == (40, 96)
    assert report.dtype == "float64"
    assert report.groups[2].rir == pytest.approx(ratios[2], rel=1e-6)
    assert f"{np.mean(ratios):.4g}" in str(report)
    assert "6 groups of 12 samples" in str(report)

    whole = relative_immunization_ratio(
        direct(model, harmful.x), direct(base, harmful.x), direct(model, primary.x), direct(base, primary.x)
    )
    assert report.all_samples.rir == pytest.approx(whole.rir, rel=1e-6)
    assert values["all_samples"]["rir"] == report.all_samples.rir
    assert report.initial_harmful.n_samples == 40
    by_hand = (base(primary.x).argmax(1) == primary.y).double().mean().item()
    assert report.primary_accuracy["initial"] == pytest.approx(by_hand)
    assert set(report.primary_accuracy) == {"initial", "immunized"}


def test_groups_of_several_sizes_or_of_all_rows_are_said(models, harmful):
    """Of the same rows twenty times there is no spread, whatever rounding makes of it."""
    report = evaluate_immunization(*models, Images(9, seed=2), harmful, protocol=Protocol(3, 12))
    assert "3 groups of 12 harmful and 9 primary samples; all groups are the same rows of the primary (ii)" in str(
        report
    )
    protocol = report.to_dict()["protocol"]
    assert [protocol[name] for name in ("group_size", "group_size_primary", "group_size_asked")] == [12, 9, 12]
    whole = str(evaluate_immunization(*models, Images(9, seed=2), Images(9), protocol=Protocol(3, 12)))
    assert "3 groups of 9 samples; all groups are the same rows of the harmful (i) and the primary (ii) data" in whole
    usual = evaluate_immunization(*models, Images(20, seed=2), harmful, protocol=Protocol(3, 12))
    assert "3 groups of 12 samples)" in str(usual)
    assert "group_size_primary" not in usual.to_dict()["protocol"]


def test_the_roles_of_the_models_and_of_the_tasks_are_not_mixed_up(models, primary, harmful):
    model, base = models
    protocol = Protocol(1, 12)
    forth = evaluate_immunization(model, base, primary, harmful, protocol=protocol)
    back = evaluate_immunization(base, model, primary, harmful, protocol=protocol)
    crossed = evaluate_immunization(model, base, harmful, primary, protocol=protocol)
    assert abs(math.log(forth.rir)) > 0.1
    assert forth.rir * back.rir == pytest.approx(1, rel=1e-6)
    assert forth.rir_i == pytest.approx(crossed.rir_ii, rel=1e-6)
    assert evaluate_immunization(model, copy.deepcopy(model), primary, harmful, protocol=protocol).rir == 1.0


def test_precision_is_asked_for_and_models_stay_as_they_were(models, primary, harmful):
    model, base = models
    before = copy.deepcopy(model.state_dict())
    double = evaluate_immunization(model, base, primary, harmful, protocol=Protocol(2, 10), float64=True)
    single = evaluate_immunization(model, base, primary, harmful, protocol=Protocol(2, 10), float64=False)
    assert (double.dtype, single.dtype) == ("float64", "float32")
    assert double.rir == pytest.approx(single.rir, rel=1e-2)
    assert double.rir != single.rir
    for name, value in model.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])


def test_a_spectrum_below_single_precision_is_measured_again_in_float64(models, harmful, primary):
    model, base = models
    with torch.no_grad():
        # Features that differ by a ten-millionth: float32 sees its own rounding there.
        model.widen.weight.mul_(1e-7)
        model.widen.bias.fill_(1.0)
    found = evaluate_immunization(model, base, primary, harmful, protocol=Protocol(2, 10))
    rows = Protocol(2, 10).indices(40)
    by_hand = [kappa(direct(model, harmful.x)[one]) / kappa(direct(base, harmful.x)[one]) for one in rows]
    assert found.rir_i == pytest.approx(np.mean(by_hand), rel=1e-4)
    exact = evaluate_immunization(model, base, primary, harmful, protocol=Protocol(2, 10), float64=True)
    for name in ("rir", "rir_i", "rir_ii"):
        assert getattr(found, name) == pytest.approx(getattr(exact, name), rel=1e-3)
        assert getattr(found.all_samples, name) == pytest.approx(getattr(exact.all_samples, name), rel=1e-3)
    assert found.to_dict()["rir_i"]["bound"] == "exact"
    # θ0's own spectrum needs no more than float32.
    single, double = ({"groups": {one: 2}, "all_samples": one} for one in ("float32", "float64"))
    assert found.precision == {
        "immunized_harmful": double,
        "initial_harmful": single,
        "immunized_primary": double,
        "initial_primary": single,
    }
    assert found.to_dict()["precision"] == found.precision
    assert found.dtype == "float32, float64 where needed"
    rough = evaluate_immunization(model, base, primary, harmful, protocol=Protocol(2, 10), float64=False)
    assert rough.to_dict()["rir_i"]["bound"] == "lower"
    assert rough.rir_i <= exact.rir_i


def test_where_float32_will_do_nothing_is_measured_twice(models, primary, harmful):
    model, base = models
    seen = []
    base.stem.register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
    found = evaluate_immunization(model, base, primary, harmful, protocol=Protocol(2, 10))
    # A few images more, for what the models share, where their heads are and whether features repeat.
    assert sum(seen) <= len(primary) + len(harmful) + 10
    assert found.dtype == "float32"
    exact = evaluate_immunization(model, base, primary, harmful, protocol=Protocol(2, 10), float64=True)
    assert found.rir == pytest.approx(exact.rir, rel=1e-3)
    assert found.all_samples.rir == pytest.approx(exact.all_samples.rir, rel=1e-3)


def test_channels_that_died_are_a_bound_without_a_second_pass(models, primary, harmful):
    _, base = models
    model = copy.deepcopy(base)
    with torch.no_grad():
        model.widen.weight[:3].zero_()
        model.widen.bias[:3] = 0
    protocol = Protocol(2, 40)
    found = evaluate_immunization(model, base, primary, harmful, protocol=protocol)
    assert found.dtype == "float32"
    exact = evaluate_immunization(model, base, primary, harmful, protocol=protocol, float64=True)
    ratios = [*found.groups, *exact.groups, found.all_samples, exact.all_samples]
    assert {one.rir_i_bound for one in ratios} == {"lower"}
    assert 1e4 < found.rir_i < exact.rir_i
    assert 1e4 < found.all_samples.rir_i < exact.all_samples.rir_i


def test_no_more_samples_than_asked_for(models, primary, harmful):
    model, base = models
    few = evaluate_immunization(model, base, primary, harmful, protocol=Protocol(3, 10, 5), max_samples=20)
    assert (few.initial_harmful.n_samples, few.initial_primary.n_samples) == (20, 20)
    kept = [at_most(data, 20, seed=5) for data in (primary, harmful)]
    same = evaluate_immunization(model, base, *kept, protocol=Protocol(3, 10, 5))
    assert few.rir == pytest.approx(same.rir)


def test_raw_pictures_go_through_the_image_processor():
    model, processor = tiny_vit(("class 0", "class 1"))
    other, _ = tiny_vit(("class 0", "class 1"))
    with torch.no_grad():
        other.vit.layernorm.weight.mul_(torch.linspace(0.5, 2, 32))
    primary = picture_dataset(12, seed=1)
    harmful = picture_dataset(12, seed=2, n_classes=3).remove_columns("label")
    report = evaluate_immunization(
        other, model, primary, harmful, image_processor=processor, protocol=Protocol(2, 8), float64=False
    )
    images = {
        name: processor(list(data["image"]), return_tensors="pt")["pixel_values"]
        for name, data in (("primary", primary), ("harmful", harmful))
    }
    features = []
    for one, task in ((other, "harmful"), (model, "harmful"), (other, "primary"), (model, "primary")):
        with torch.no_grad():
            features.append(one.vit(images[task]).last_hidden_state[:, 0])
    assert report.rir == pytest.approx(rir_report(*features, protocol=Protocol(2, 8)).rir, rel=1e-3)
    assert report.rir != pytest.approx(1, rel=1e-2)
    with pytest.raises(ValueError, match="need an image processor"):
        evaluate_immunization(other, model, primary, harmful)


def test_what_cannot_be_measured_says_so(models, primary, harmful):
    model, base = models
    with pytest.raises(ValueError, match=r"the same object.*Load both"):
        evaluate_immunization(model, model, primary, harmful)
    with pytest.raises(ValueError, match="needs two or more samples, got 1"):
        evaluate_immunization(model, base, primary, Subset(harmful, [0]))
    with pytest.raises(ValueError, match="data set is empty"):
        evaluate_immunization(model, base, Images(0), harmful)


def test_classes_that_the_model_does_not_have_are_said_and_measured_without_labels(caplog):
    model, processor = tiny_vit(("cat", "dog"))
    base, _ = tiny_vit(("cat", "dog"))
    primary = picture_dataset(24)
    with caplog.at_level("WARNING"):
        report = evaluate_immunization(
            model, base, primary, picture_dataset(24, seed=1), image_processor=processor, protocol=Protocol(2, 8)
        )
    assert "No accuracy of the primary task: the primary data and the model name different classes" in caplog.text
    assert report.primary_accuracy == {}
    assert report.rir == pytest.approx(1)


def test_labels_that_the_head_does_not_have_are_in_no_accuracy(models, harmful, caplog):
    with caplog.at_level("WARNING"):
        report = evaluate_immunization(*models, Images(30, n_classes=5), harmful, protocol=Protocol(2, 8))
    assert "No accuracy of the primary task: labels from 0 to 4, 3 classes" in caplog.text
    assert report.primary_accuracy == {}


def test_fewer_classes_than_a_model_without_names_has_are_in_no_accuracy(models, caplog):
    """A folder without its first class would be numbered one lower throughout."""
    primary = ImageInputs(picture_dataset(24, n_classes=2), tiny_vit(("a", "b"))[1])
    with caplog.at_level("WARNING"):
        report = evaluate_immunization(*models, primary, Images(20, seed=1), protocol=Protocol(2, 8))
    assert "name 2 classes ('class 0', 'class 1') and the model has 3 without names" in caplog.text
    assert report.primary_accuracy == {}
    whole = ImageInputs(picture_dataset(24, n_classes=3), tiny_vit(("a", "b"))[1])
    assert evaluate_immunization(*models, whole, Images(20, seed=1), protocol=Protocol(2, 8)).primary_accuracy


def test_one_data_set_as_both_tasks_is_said(models, primary, caplog):
    with caplog.at_level("WARNING"):
        evaluate_immunization(*models, primary, primary, protocol=Protocol(2, 8))
    assert "pictures of the harmful task are among those of the primary task" in caplog.text


def test_each_model_is_judged_by_its_own_order_of_the_classes(caplog):
    """Labels in θ0's order would give a model of another order a wrong accuracy, or one of other weights the same."""
    names = ["class 0", "class 1", "class 2"]
    data = picture_dataset(40, n_classes=3)
    harmful = picture_dataset(12, n_classes=2, seed=4)
    model, processor = tiny_vit(names)
    with torch.no_grad():
        model.classifier.weight.normal_(generator=torch.Generator().manual_seed(3))
    pixels = torch.stack([one["pixel_values"] for one in ImageInputs(data, processor)])
    by_hand = float((model(pixels).logits.argmax(1) == torch.tensor(data["label"])).double().mean())
    # The same network, its classes in another order: rows of the head change places with the names.
    order = [2, 0, 1]
    moved, _ = tiny_vit([names[k] for k in order])
    moved.load_state_dict(model.state_dict())
    with torch.no_grad():
        moved.classifier.weight.copy_(model.classifier.weight[order])
        moved.classifier.bias.copy_(model.classifier.bias[order])
    nameless, _ = tiny_vit([f"LABEL_{k}" for k in range(3)])
    nameless.load_state_dict(moved.state_dict())

    def accuracy(one, base):
        found = evaluate_immunization(one, base, data, harmful, image_processor=processor, protocol=Protocol(2, 6))
        return found.primary_accuracy

    assert accuracy(moved, model) == pytest.approx({"immunized": by_hand, "initial": by_hand})
    assert "The immunized model numbers its classes in another order" in caplog.text
    # What only numbers its classes has those of the model that was made of it.
    assert accuracy(moved, nameless) == pytest.approx({"immunized": by_hand, "initial": by_hand})
    assert accuracy(nameless, moved) == pytest.approx({"immunized": by_hand, "initial": by_hand})
    assert 0.1 < by_hand < 0.9
