"""One call for the whole job: by names and by objects, with and without its parts, and what stops it."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace

import pytest
import torch
from datasets import DatasetDict, concatenate_datasets
from planted import QUICK
from safetensors.torch import load_file
from samples import tiny_timm, tiny_vit
from tiny import Images, TinyNet, picture_dataset
from trainers import arguments

from hf_immunize import Immunization, ImmunizationRecord, NonFiniteLossError, immunize
from hf_immunize.data.preprocessing import TimmImageProcessor

NAMES = ("class 0", "class 1")


@pytest.fixture(scope="module")
def splits():
    primary = DatasetDict({"train": picture_dataset(24, seed=1), "test": picture_dataset(16, seed=2)})
    harmful = DatasetDict(
        {"train": picture_dataset(24, n_classes=3, seed=3), "test": picture_dataset(16, n_classes=3, seed=4)}
    )
    return primary, harmful


def pairs():
    """Primary and harmful pairs of model inputs, to train on and to measure on."""
    return (Images(48, seed=1), Images(32, seed=2)), (Images(40, seed=3), Images(24, seed=4))


def few(folder, **changes):
    return arguments(folder, **({"max_steps": 3, "per_device_train_batch_size": 8} | changes))


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left.state_dict().values(), right.state_dict().values(), strict=True))


def test_names_and_objects_give_the_same(tmp_path, splits):
    model, processor = tiny_vit(NAMES)
    model.save_pretrained(tmp_path / "vit")
    processor.save_pretrained(tmp_path / "vit")
    for name, data in zip(("primary", "harmful"), splits, strict=True):
        data.save_to_disk(tmp_path / name)
    places = [tmp_path / name for name in ("vit", "primary", "harmful")]
    by_name = immunize(*places, few(tmp_path / "first"), control=False, attackers=None)
    by_object = immunize(
        model, *splits, few(tmp_path / "second"), image_processor=processor, control=False, attackers=None
    )
    for name, value in by_name.model.state_dict().items():
        torch.testing.assert_close(by_object.model.state_dict()[name], value, rtol=0, atol=1e-6, msg=name)
    assert by_object.results["rir"]["immunized"]["rir"]["mean"] == pytest.approx(
        by_name.results["rir"]["immunized"]["rir"]["mean"], rel=1e-3
    )
    assert (by_name.record.base_model, by_name.record.primary.name) == ("vit", "primary")
    assert by_object.record.base_model == "ViTForImageClassification passed as a module"
    assert by_object.record.primary.n_train == by_name.record.primary.n_train == 24
    # A module is trained in place; what was loaded by name is a copy of the folder.
    assert by_object.model is model
    assert by_name.record.training["steps"] == 3
    assert type(by_name.image_processor) is type(processor)


def test_the_groups_that_were_asked_for_are_those_of_the_record(tmp_path):
    asked = few(tmp_path / "run", rir_groups=3, rir_group_size=8, save_strategy="steps", save_steps=3)
    start = TinyNet().eval()
    run = immunize(copy.deepcopy(start), *pairs(), asked, control=False, attackers=None)
    protocol = run.record.results["rir"]["immunized"]["protocol"]
    assert {name: protocol[name] for name in ("groups", "group_size", "group_size_asked")} == {
        "groups": 3,
        "group_size": 8,
        "group_size_asked": 8,
    }
    # A call that goes on does not take the figures of other groups.
    again = few(tmp_path / "run", rir_groups=2, rir_group_size=8, save_strategy="steps", save_steps=3)
    again.resume_from_checkpoint = "last"
    resumed = immunize(start, *pairs(), again, control=False, attackers=None)
    assert resumed.record.results["rir"]["immunized"]["protocol"]["groups"] == 2


def test_a_pair_of_model_inputs_without_control_and_attackers(tmp_path):
    network = TinyNet().eval()
    start = copy.deepcopy(network)
    run = immunize(network, *pairs(), few(tmp_path), control=False, attackers=None)
    assert isinstance(run, Immunization)
    assert run.model is network
    assert run.control is None
    assert same(run.initial, start)
    assert not same(run.model, start)
    assert run.results.keys() == {"primary_accuracy", "rir", "spectra"}
    assert run.results["rir"].keys() == {"immunized"}
    assert (run.record.primary.n_train, run.record.harmful.n_eval) == (48, 24)
    assert not run.model.training


def test_the_control_is_the_same_steps_without_the_regularizers(tmp_path):
    plain = {"lambda_primary": 0.0, "lambda_harmful": 0.0}
    start = TinyNet().eval()
    run = immunize(copy.deepcopy(start), *pairs(), few(tmp_path / "with"), attackers=None)
    alone = immunize(copy.deepcopy(start), *pairs(), few(tmp_path / "plain", **plain), control=False, attackers=None)
    assert run.results["rir"].keys() == {"immunized", "control"}
    assert run.results["primary_accuracy"].keys() == {"initial", "immunized", "control"}
    assert not same(run.control, run.model)
    for name, value in alone.model.state_dict().items():
        torch.testing.assert_close(run.control.state_dict()[name], value, rtol=0, atol=1e-6, msg=name)


def test_attackers_run_on_every_model_beside_a_benign_task(tmp_path):
    benign = (Images(40, seed=5), Images(24, seed=6))
    run = immunize(
        TinyNet().eval(), *pairs(), few(tmp_path), benign=benign, attackers="ridge regression", budgets=QUICK
    )
    attacks = run.results["attacks"]
    assert attacks["attackers"].keys() == {"ridge regression"}
    assert attacks["attackers"]["ridge regression"]["accuracy"].keys() >= {"initial", "control", "immunized"}
    assert run.record.benign.n_eval == 24


def test_a_fit_makes_theta_zero(tmp_path):
    network = TinyNet().eval()
    before = copy.deepcopy(network)
    run = immunize(network, *pairs(), few(tmp_path), fit_steps=2, fit_learning_rate=0.05, control=False, attackers=None)
    assert not same(run.initial, before)
    assert run.record.training["fit"] == {"steps": 2, "learning_rate": 0.05, "warmup_steps": 0}


def test_a_budget_stands_in_the_record_and_holds_for_fit_and_control(tmp_path):
    data = (Images(210, seed=1), Images(40, seed=2)), pairs()[1]
    start = TinyNet().eval()
    args = few(tmp_path, max_accuracy_drop=5.0, save_strategy="steps", save_steps=3)
    run = immunize(copy.deepcopy(start), *data, args, fit_steps=3, attackers=None)
    budget = run.record.training["budget"]
    assert (budget["max_accuracy_drop"], budget["held_out"], len(budget["course"])) == (5.0, 100, 1)
    assert any("100 primary rows are held out" in note for note in run.notes)
    again = immunize(
        start,
        *data,
        few(tmp_path, max_accuracy_drop=5.0, save_strategy="steps", save_steps=3, resume_from_checkpoint="last"),
        fit_steps=3,
        attackers=None,
    )
    assert again.record.training["budget"] == budget
    assert same(run.model, again.model)


def test_models_are_kept_beside_the_release_where_that_is_asked_for(tmp_path):
    network = tiny_timm()
    processor = TimmImageProcessor.from_model(network)
    run = immunize(network, *pairs(), few(tmp_path / "run"), image_processor=processor, attackers=None)
    folder = run.save(tmp_path / "both", keep=["initial", "control"])
    for name, model in {".": run.model, "initial": run.initial, "control": run.control}.items():
        stored = load_file(folder / name / "model.safetensors")
        assert all(torch.equal(stored[key], value) for key, value in model.state_dict().items()), name
        assert json.loads((folder / name / "config.json").read_text())["architecture"] == "test_resnet"
    loaded = ImmunizationRecord.load(folder)
    assert {"model.safetensors", "initial/model.safetensors", "control/model.safetensors"} <= set(loaded.files)
    assert replace(loaded, files={}) == run.record
    # A module comes from nowhere that anybody could fetch it.
    assert {path.name for path in run.save(tmp_path / "default").iterdir() if path.is_dir()} >= {"initial"}
    assert not (tmp_path / "default" / "control").exists()
    assert not (run.save(tmp_path / "none", keep=[]) / "initial").exists()
    run.ceilings = {"primary_only": run.initial, "public": run.model}
    folder = run.save(tmp_path / "ceilings", keep=["primary_only", "public"])
    assert {"primary_only/model.safetensors", "public/model.safetensors"} <= set(ImmunizationRecord.load(folder).files)
    run.control = None
    with pytest.raises(ValueError, match="There is no 'control' to keep: this run has initial; primary_only; public"):
        run.save(tmp_path / "absent", keep=["control"])
    assert not (tmp_path / "absent").exists()


def test_a_new_head_is_not_measured_untrained(tmp_path, splits):
    model, processor = tiny_vit(("crow", "owl", "wren"))
    for part in (model, processor):
        part.save_pretrained(tmp_path / "vit")
    with pytest.raises(ValueError, match="The head is new and would be measured untrained"):
        immunize(tmp_path / "vit", *splits, few(tmp_path / "out"), new_head=True, attackers=None)
    with pytest.raises(ValueError, match="ViTForImageClassification has a head already: classifier"):
        immunize(model, *splits, few(tmp_path / "out"), image_processor=processor, new_head=True, attackers=None)


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path):
    network = TinyNet().eval()
    network.score.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(NonFiniteLossError, match=r"Step 1: the gradient is no longer finite \(its norm is"):
        immunize(network, *pairs(), few(tmp_path), control=False, attackers=None)


def test_what_does_not_fit_is_said_before_any_training(tmp_path, splits):
    primary, harmful = pairs()
    with pytest.raises(ValueError, match="must be a pair"):
        immunize(TinyNet(), (*primary, primary[0]), harmful, few(tmp_path), attackers=None)
    with pytest.raises(ValueError, match="Raw images need an image processor"):
        immunize(tiny_vit(NAMES)[0], *splits, few(tmp_path), attackers=None)
    with pytest.raises(ValueError, match=r"labels run from.*new_head=True"):
        immunize(TinyNet(n_classes=2), primary, harmful, few(tmp_path), attackers=None)
    with pytest.raises(ValueError, match="ridge regression"):
        immunize(TinyNet(), primary, harmful, few(tmp_path), attackers=["ridge regresion"])
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_model_that_no_configuration_describes_is_refused_before_any_training(tmp_path):
    model, processor = tiny_vit(("class 0", "class 1"))
    torch.nn.utils.parametrizations.weight_norm(model.vit.layers[0].mlp.fc1)
    data = (picture_dataset(16, size=32), picture_dataset(8, size=32, seed=1))
    with pytest.raises(ValueError, match="it would not load again"):
        immunize(model, data, data, few(tmp_path), image_processor=processor)


def test_pictures_that_were_trained_on_are_said_and_never_all_that_is_measured_on(tmp_path, splits):
    model, processor = tiny_vit(NAMES)
    primary, harmful = splits

    def mixed(task, *rows):
        return DatasetDict(task | {"test": concatenate_datasets([task["test"], task["train"].select(rows)])})

    given = {"image_processor": processor, "control": False, "attackers": "ridge regression", "budgets": QUICK}
    train = harmful["train"]
    with pytest.raises(ValueError, match=r"The harmful data to train on and to measure on are the same rows \(5 of 5"):
        immunize(model, primary, (train, train.select(range(5))), few(tmp_path), **given)
    run = immunize(
        model, mixed(primary, 4), mixed(harmful, 1, 2), few(tmp_path), benign=mixed(primary, 5, 6, 7), **given
    )
    notes = run.record.training["notes"]
    for task, count in (("primary evaluation", "1 of 17"), ("harmful evaluation", "2 of 18"), ("benign", "3 of 19")):
        told = f"{task}: {count} pictures to measure on are among those to train on, row 16 first"
        assert any(one.startswith(told) for one in notes), notes
    assert any(one.startswith("harmful: 2 of 18 pictures") for one in run.results["attacks"]["notes"])


def test_a_run_that_immunizes_against_nothing_says_so(tmp_path):
    plain = few(tmp_path, lambda_primary=0.0, lambda_harmful=0.0)
    run = immunize(TinyNet().eval(), *pairs(), plain, control=False, attackers=None)
    assert run.record.training["notes"][-1] == "Both λ are 0: this is plain fine-tuning, and nothing was immunized."
