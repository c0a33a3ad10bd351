"""`hf-immunize train`: from folders to a whole release, resumed or anew, and every mistake that a user can mend."""

from __future__ import annotations

import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import timm
import torch
from commands import NAMES, error_of, training
from datasets import ClassLabel, DatasetDict
from kills import without_clock
from PIL import Image
from safetensors.torch import load_file
from samples import tiny_timm, tiny_vit
from tiny import picture_dataset
from training.test_locking import HOLDS
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTConfig, ViTModel

from hf_immunize.cli.main import main
from hf_immunize.data.preprocessing import TimmImageProcessor
from hf_immunize.release.certify import certified
from hf_immunize.release.record import ImmunizationRecord
from hf_immunize.training.trainer import ImmunizationTrainer


def test_training_writes_a_whole_release(world, released):
    certified(released)
    record = ImmunizationRecord.load(released)
    assert (record.base_model, record.architecture, record.library) == (
        "vit",
        "ViTForImageClassification",
        "transformers",
    )
    assert (record.primary.name, record.primary.split, record.primary.eval_split) == ("primary", "train", "test")
    assert (record.primary.n_train, record.primary.n_eval, record.primary.classes) == (
        24,
        16,
        ["class 0", "class 1"],
    )
    assert (record.harmful.n_train, record.harmful.n_eval) == (32, 8)
    assert record.harmful.eval_split == "a fifth of train, drawn by seed 3"
    assert record.trainable["modules"] == ["vit.layers.1", "vit.layernorm", "classifier"]
    assert record.training["steps"] == 4
    assert set(record.results["primary_accuracy"]) == {"initial", "control", "immunized"}
    assert set(record.results["rir"]) == {"immunized", "control"}
    assert record.results["rir"]["immunized"]["rir"]["mean"] != record.results["rir"]["control"]["rir"]["mean"]
    assert set(record.results["attacks"]["worst_case"]["probe"]) == {"initial", "control", "immunized", "scratch"}
    assert record.command.startswith("hf-immunize train --model")
    assert {path.name for path in released.iterdir()} >= {"README.md", "config.json", "figures", "model.safetensors"}
    # The frozen part is the base model's, what trains moved.
    before, after = (
        AutoModelForImageClassification.from_pretrained(folder).state_dict() for folder in (world / "vit", released)
    )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith(("vit.layers.1.", "vit.layernorm.", "classifier.")) for name in changed)


def test_the_release_loads_and_classifies_as_its_record_says(world, released):
    model = AutoModelForImageClassification.from_pretrained(released)
    processor = AutoImageProcessor.from_pretrained(released)
    test = picture_dataset(16, seed=2)
    with torch.no_grad():
        found = model(**processor(list(test["image"]), return_tensors="pt")).logits.argmax(1)
    accuracy = (found == torch.tensor(test["label"][:])).double().mean().item()
    assert ImmunizationRecord.load(released).results["primary_accuracy"]["immunized"] == pytest.approx(accuracy)
    assert model.config.id2label == dict(enumerate(NAMES))


def test_a_timm_folder_is_trained_and_loads_in_timm(world, tmp_path):
    model = tiny_timm("test_resnet", num_classes=2)
    processor = TimmImageProcessor.from_model(model, image_size=32)
    timm.models.save_for_hf(model, tmp_path / "base", safe_serialization=True, data_config=processor.data_config)
    given = training(world, tmp_path / "out", "--max_steps", "2", model=tmp_path / "base", harmful="unlabelled")
    assert main(given) == 0
    loaded = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    record = ImmunizationRecord.load(tmp_path / "out")
    assert (record.library, record.architecture) == ("timm", "test_resnet")
    assert record.trainable["modules"] == ["layer4", "fc"]
    assert "attacks" not in record.results
    assert not torch.equal(loaded.fc.weight, model.fc.weight)
    assert torch.equal(loaded.conv1[0].weight, model.conv1[0].weight)


def test_a_new_head_is_fitted_first(world, tmp_path, capsys):
    missing = error_of(capsys, training(world, tmp_path / "out", primary="three"))
    assert "name different classes (only the primary data: 'class 2')" in missing
    assert "a new head for the classes of the data" in missing
    unfitted = error_of(capsys, training(world, tmp_path / "out", "--new_head", primary="three"))
    assert "would be measured untrained" in unfitted
    assert "--fit_steps 300" in unfitted
    more = ("--new_head", "--fit_steps", "30", "--learning_rate", "0.05", "--lambda_harmful", "0.1")
    assert main(training(world, tmp_path / "out", *more, primary="three")) == 0
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    assert model.config.id2label == {index: f"class {index}" for index in range(3)}
    record = ImmunizationRecord.load(tmp_path / "out")
    assert record.training["fit"]["steps"] == 30
    # θ0 is the fitted model: better than the largest class.
    assert record.results["primary_accuracy"]["initial"] > 0.6


def test_a_new_head_for_as_many_other_classes_is_new(world, tmp_path, capsys):
    model, processor = tiny_vit(("cat", "dog"))
    for part in (model, processor):
        part.save_pretrained(tmp_path / "pets")
    given = training(world, tmp_path / "out", "--new_head", model=tmp_path / "pets")
    assert "would be measured untrained" in error_of(capsys, given)
    assert main([*given, *SHORT, "--fit_steps", "1", "--fit_learning_rate", "1e-9"]) == 0
    initial = AutoModelForImageClassification.from_pretrained(tmp_path / "out" / "initial")
    assert initial.config.id2label == dict(enumerate(NAMES))
    assert not torch.allclose(initial.classifier.weight, model.classifier.weight, atol=1e-4)


def test_resume_after_an_interruption_gives_the_uninterrupted_run(world, tmp_path, capsys, monkeypatch):
    more = ("--save_steps", "2", "--new_head", "--fit_steps", "3")
    assert main(training(world, tmp_path / "whole", *more)) == 0
    compute_loss = ImmunizationTrainer.compute_loss

    def interrupted(self, *args, **kwargs):
        if self.state.global_step == 3 and self.harmful_dataset is not None:
            raise KeyboardInterrupt
        return compute_loss(self, *args, **kwargs)

    capsys.readouterr()
    monkeypatch.setattr(ImmunizationTrainer, "compute_loss", interrupted)
    assert main(training(world, tmp_path / "cut", *more)) == 130
    assert "Stopped" in capsys.readouterr().err
    assert not (tmp_path / "cut").exists()
    monkeypatch.setattr(ImmunizationTrainer, "compute_loss", compute_loss)
    forgotten = error_of(capsys, training(world, tmp_path / "cut", *more))
    assert "--resume_from_checkpoint" in forgotten
    assert "--overwrite" in forgotten
    assert main(training(world, tmp_path / "cut", *more, "--resume_from_checkpoint")) == 0
    whole, cut = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    ratios = [ImmunizationRecord.load(tmp_path / name).results["rir"]["immunized"] for name in ("whole", "cut")]
    assert ratios[0] == ratios[1]


def test_resume_without_a_checkpoint_says_so(world, tmp_path, capsys):
    assert "holds no checkpoint to go on from" in error_of(
        capsys, training(world, tmp_path / "new", "--resume_from_checkpoint")
    )


@pytest.mark.parametrize(
    ("changes", "more", "message"),
    [
        ({"model": "vitt"}, (), "There is no folder"),
        ({"primary": "primry"}, (), "There is no data set at"),
        ({}, ("--primary_split", "trian"), "has the splits train, test; not 'trian'"),
        ({}, ("--primary_label_column", "lable"), "Did you mean 'label'?"),
        ({"primary": "unlabelled"}, (), "no column of labels; its columns are image"),
        ({"harmful": "unlabelled"}, ("--objective", "imma"), "no column of labels"),
        ({}, ("--lambda_harmful", "-1"), "lambda_harmful must be a finite number, zero or more, got -1.0"),
        ({}, ("--lambda_harmful", "nan"), "lambda_harmful must be a finite number"),
        ({}, ("--trainable", "vit.layer.1"), "vit.layers.1"),
        ({}, ("--batch_size", "50"), "holds 24 samples, fewer than one batch of 50"),
    ],
)
def test_a_training_that_cannot_be_ends_in_one_line(world, tmp_path, capsys, changes, more, message):
    assert message in error_of(capsys, training(world, tmp_path / "out", *more, **changes))
    assert not (tmp_path / "out").exists()


def test_models_and_data_that_cannot_be(world, tmp_path, capsys):
    body = ViTModel(ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48))
    body.save_pretrained(tmp_path / "body")
    assert "no trained classification head" in error_of(
        capsys, training(world, tmp_path / "out", model=tmp_path / "body")
    )
    tiny_vit(NAMES)[0].save_pretrained(tmp_path / "bare")
    with pytest.warns(UserWarning, match="holds no image processor"):
        bare = error_of(capsys, training(world, tmp_path / "out", model=tmp_path / "bare"))
    assert "Save one beside it" in bare
    words = picture_dataset(20).remove_columns("label").add_column("label", ["a", "b"] * 10)
    words.save_to_disk(tmp_path / "words")
    # Words are class names, which are compared with the model's: never their numbers.
    other = error_of(capsys, training(world, tmp_path / "words-out", "--max_steps", "1", primary=tmp_path / "words"))
    assert "name different classes" in other
    assert "new head" in other
    hidden = picture_dataset(20).remove_columns("label")
    hidden = hidden.add_column("label", [-1] * 20, feature=ClassLabel(names=list(NAMES)))
    DatasetDict({"train": picture_dataset(20), "test": hidden}).save_to_disk(tmp_path / "hidden")
    # Such a split is never measured on, and what is taken in its place is said.
    assert main(training(world, tmp_path / "out", "--max_steps", "1", primary=tmp_path / "hidden")) == 0
    assert ImmunizationRecord.load(tmp_path / "out").primary.eval_split == "a fifth of train, drawn by seed 42"


def test_what_stands_in_the_output_folder_is_kept(world, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert "is not empty" in error_of(capsys, training(world, tmp_path / "out"))
    (tmp_path / "file").write_text("mine")
    assert "is a file" in error_of(capsys, training(world, tmp_path / "file"))
    assert main(training(world, tmp_path / "out", "--overwrite", "--max_steps", "1")) == 0
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    certified(tmp_path / "out")
    # Nor are checkpoints of the earlier run left for a later --resume to find.
    assert [path.name for path in (tmp_path / "out-checkpoints").glob("checkpoint-*")] == ["checkpoint-1"]
    assert main(training(world, tmp_path / "out", "--overwrite", "--max_steps", "2")) == 0
    assert [path.name for path in (tmp_path / "out-checkpoints").glob("checkpoint-*")] == ["checkpoint-2"]


def test_greyscale_folders_of_images_train_too(world, tmp_path):
    for split, n in (("train", 16), ("test", 10)):
        for index, row in enumerate(picture_dataset(n, mode="L", seed=n)):
            target = tmp_path / "grey" / split / f"class {row['label']}" / f"{index}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            row["image"].save(target)
    assert Image.open(target).mode == "L"
    assert main(training(world, tmp_path / "out", "--max_steps", "1", primary=tmp_path / "grey")) == 0
    assert ImmunizationRecord.load(tmp_path / "out").primary.classes == ["class 0", "class 1"]


def test_the_control_is_left_out_on_request_and_models_are_kept(world, tmp_path):
    given = training(world, tmp_path / "out", "--max_steps", "1", "--no_control", "--attackers", "ridge")
    assert main([*given, "--keep", "initial"]) == 0
    record = ImmunizationRecord.load(tmp_path / "out")
    assert set(record.results["primary_accuracy"]) == {"initial", "immunized"}
    assert list(record.results["attacks"]["attackers"]) == ["ridge regression"]
    kept = AutoModelForImageClassification.from_pretrained(tmp_path / "out" / "initial").state_dict()
    base = AutoModelForImageClassification.from_pretrained(world / "vit").state_dict()
    assert all(torch.equal(kept[name], base[name]) for name in base)


def test_broken_pictures_are_named_or_left_out_and_counted(world, tmp_path, capsys):
    for index, row in enumerate(picture_dataset(30, seed=8)):
        target = tmp_path / "folder" / f"class {row['label']}" / f"{index}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        row["image"].save(target)
    (tmp_path / "folder" / "class 0" / "broken.png").write_bytes(b"no picture")
    given = training(world, tmp_path / "out", "--no_control", "--attackers", "ridge", primary=tmp_path / "folder")
    assert "broken.png" in error_of(capsys, given)
    assert main([*given, "--skip_corrupt"]) == 0
    assert "broken.png" in capsys.readouterr().err
    record = ImmunizationRecord.load(tmp_path / "out").primary
    assert record.n_train + record.n_eval == 30


def test_fine_tuning_has_its_budgets_and_its_ceilings(world, tmp_path):
    more = ("--attackers", "last-block", "--finetune_steps", "1", "2", "--ceiling_steps", "3", "--save_steps", "1")
    assert main(training(world, tmp_path / "out", "--max_steps", "1", "--no_control", *more)) == 0
    record = ImmunizationRecord.load(tmp_path / "out")
    attacks = record.results["attacks"]
    assert attacks["uplift"]["ceilings"] == ["scratch", "primary_only"]
    assert list(attacks["worst_case"]["fine-tuning"]["immunized"]["100"]) == ["1", "2"]
    assert record.training["primary_only"]["steps"] == 3
    assert "--ceiling_steps 3" in record.command
    assert list((tmp_path / "out-checkpoints" / "primary_only").glob("checkpoint-*"))
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "trained for 3 steps from random weights" in text
    assert (tmp_path / "out" / "figures" / "trials.png").is_file()


SHORT = ("--max_steps", "2", "--save_steps", "1", "--no_control", "--attackers", "ridge")


def test_a_finished_run_goes_on_to_the_same_release_without_a_step(world, tmp_path, monkeypatch):
    given = training(world, tmp_path / "out", *SHORT)
    assert main(given) == 0
    first = ImmunizationRecord.load(tmp_path / "out").to_dict()
    monkeypatch.setattr(ImmunizationTrainer, "compute_loss", None)
    assert main([*given, "--resume_from_checkpoint"]) == 0
    second = ImmunizationRecord.load(tmp_path / "out").to_dict()
    assert without_clock(second) == without_clock(first)
    assert "resume" not in second["command"]
    # Of what another run measured, the release is not this run's to replace.
    shutil.rmtree(next((tmp_path / "out-checkpoints").glob("measured-*")))
    assert main([*given, "--resume_from_checkpoint"]) == 1


def test_a_second_run_and_its_overwrite_are_refused_while_the_first_goes_on(world, tmp_path, capsys):
    given = training(world, tmp_path / "out", *SHORT)
    assert main(given) == 0
    work = tmp_path / "out-checkpoints"
    held = subprocess.Popen([sys.executable, "-c", HOLDS, str(work)], stdout=subprocess.PIPE, text=True)
    with held as other:
        assert other.stdout.readline() == "held\n"
        capsys.readouterr()
        assert "Another run writes into" in error_of(capsys, [*given, "--overwrite"])
        other.kill()
    assert (work / "checkpoint-2").is_dir()
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_what_an_earlier_run_left_half_written_is_cleared_and_nothing_else(world, tmp_path):
    left = [tmp_path / ".out-abcdefgh.unfinished", tmp_path / "out-checkpoints" / ".checkpoint-1.unfinished"]
    others = [tmp_path / ".out2-abcdefgh.unfinished", tmp_path / "out-checkpoints" / "notes"]
    for folder in (*left, *others):
        folder.mkdir(parents=True)
        (folder / "file").write_text("something")
    assert main(training(world, tmp_path / "out", *SHORT)) == 0
    assert not any(folder.exists() for folder in left)
    assert all((folder / "file").is_file() for folder in others)


def test_a_full_disk_at_the_release_is_one_line_and_nothing_is_lost(world, tmp_path, capsys, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    given = training(world, tmp_path / "out", *SHORT)
    with monkeypatch.context() as patched:
        patched.setattr("hf_immunize.training.immunize.save_immunized", full)
        assert main(given) == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert "out could not be written (No space left on device). Make room, and go on with" in told
    monkeypatch.setattr("hf_immunize.training.immunize.measure", None)
    assert main([*given, "--resume_from_checkpoint"]) == 0
    certified(tmp_path / "out")


def test_a_release_goes_to_the_branch_that_was_named(world, tmp_path, monkeypatch):
    pushed = []

    def push(folder, repo_id, **options):
        pushed.append((folder, repo_id, options))
        return SimpleNamespace(commit_url="https://hub/commit")

    monkeypatch.setattr("hf_immunize.cli.train.check_can_push", lambda *_, **__: None)
    monkeypatch.setattr("hf_immunize.cli.train.push_to_hub", push)
    more = ("--push_to_hub", "--hub_model_id", "me/x", "--hub_revision", "try", "--token", "hf_secret")
    assert main(training(world, tmp_path / "out", *SHORT, *more)) == 0
    assert pushed == [(tmp_path / "out", "me/x", {"private": None, "token": "hf_secret", "revision": "try"})]
