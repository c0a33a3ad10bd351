"""The command line in process: train, evaluate, push, configuration files, and every mistake that a user can mend."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from datasets import ClassLabel, DatasetDict
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file
from samples import tiny_timm, tiny_vit
from tiny import picture_dataset
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTConfig, ViTModel

from hf_immunize import ImmunizationArguments
from hf_immunize.cli.config import parse
from hf_immunize.cli.main import VERBS, main
from hf_immunize.cli.quickstart import parser as quickstart_parser
from hf_immunize.cli.train import parser as train_parser
from hf_immunize.data.preprocessing import TimmImageProcessor
from hf_immunize.release.hub import check_whole
from hf_immunize.release.record import ImmunizationRecord
from hf_immunize.training.trainer import ImmunizationTrainer

NAMES = ("dark", "bright")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Folders of a model and of data sets; the tests write beside them, never into them."""
    folder = tmp_path_factory.mktemp("world")
    model, processor = tiny_vit(NAMES)
    for part in (model, processor):
        part.save_pretrained(folder / "vit")
    DatasetDict({"train": picture_dataset(24, seed=1), "test": picture_dataset(16, seed=2)}).save_to_disk(
        folder / "primary"
    )
    picture_dataset(40, seed=3).save_to_disk(folder / "harmful")
    picture_dataset(30, n_classes=3, seed=4).save_to_disk(folder / "three")
    picture_dataset(30, seed=5).remove_columns("label").save_to_disk(folder / "unlabelled")
    return folder


def training(world, output, *more, model="vit", primary="primary", harmful="harmful"):
    given = ["train", "--model", str(world / model), "--primary", str(world / primary)]
    given += ["--harmful", str(world / harmful), "--output_dir", str(output), "--use_cpu"]
    return [*given, "--max_steps", "4", "--batch_size", "8", *more]


def error_of(capsys, given, status=1):
    """The one line that a mistake ends with."""
    if status == 2:
        with pytest.raises(SystemExit) as ended:
            main(given)
        assert ended.value.code == 2
    else:
        assert main(given) == status
    out, err = capsys.readouterr()
    assert out == ""
    return err.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def released(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("released") / "out"
    assert main(training(world, folder, "--control", "--learning_rate", "0.05", "--seed", "3")) == 0
    return folder


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_every_option_once_with_its_default(capsys, verb):
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert f"usage: hf-immunize {verb}" in out
    assert "--config" in out
    assert "--json" in out
    assert "-split" not in out
    if verb in ("train", "quickstart"):
        assert "{condition,r_ill_only,opt_kappa,opt_log_kappa,imma}" in out
        assert "(default: 0.0005)" in out
        assert "--neftune_noise_alpha" not in out
        with pytest.raises(SystemExit):
            main([verb, "--help_all"])
        assert "--neftune_noise_alpha" in capsys.readouterr().out
    if verb in ("train", "attack", "quickstart"):
        assert "all, probes, finetuning, gd, " in " ".join(out.split()) or verb == "quickstart"


def test_help_names_the_verbs_and_a_typo_gets_the_nearest(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in VERBS)
    assert main([]) == 2
    assert main(["trian"]) == 2
    assert "did you mean 'train'?" in capsys.readouterr().err


def test_defaults_are_those_of_python(tmp_path):
    own = train_parser()
    options = parse(own, ["--output_dir", str(tmp_path)])
    assert own.of(ImmunizationArguments, options).to_dict() == ImmunizationArguments(str(tmp_path)).to_dict()
    assert own.of(ImmunizationArguments, options).max_steps == 300
    by_epochs = parse(own, ["--output_dir", str(tmp_path), "--num_train_epochs", "2"])
    assert own.of(ImmunizationArguments, by_epochs).max_steps == -1


def test_training_writes_a_whole_release(world, released):
    check_whole(released)
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


def test_training_prints_a_table_or_json(world, tmp_path, capsys):
    assert main(training(world, tmp_path / "table", "--max_steps", "1")) == 0
    out = capsys.readouterr().out
    for words in ("primary accuracy", "RIR, 20 groups of 8", "strongest probe", "model.safetensors"):
        assert words in out
    assert f"hf-immunize push {tmp_path / 'table'} --repo_id" in out
    assert main(training(world, tmp_path / "json", "--max_steps", "1", "--json")) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["folder"] == str(tmp_path / "json")
    assert printed["results"]["rir"].keys() == {"immunized"}


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
    assert "labels run from 0 to 2, but the model's head has 2 classes" in missing
    assert "--new_head --fit_steps 300" in missing
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


def test_evaluation_prints_rir_accuracy_and_what_was_measured_on(world, released, capsys):
    given = ["evaluate", str(released), "--base", str(world / "vit"), "--primary", str(world / "primary")]
    given += ["--harmful", str(world / "harmful"), "--group_size", "8", "--groups", "3"]
    capsys.readouterr()
    assert main([*given, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["rir"]["protocol"] == {"groups": 3, "group_size": 8, "seed": 0, "dtype": "float64"}
    # The primary data have a test split, the harmful ones have not.
    assert (values["rir"]["n_primary"], values["rir"]["n_harmful"]) == (16, 40)
    record = ImmunizationRecord.load(released)
    assert values["primary_accuracy"]["immunized"] == record.results["primary_accuracy"]["immunized"]
    assert "attacks" not in values
    assert values["data"]["primary"] == {"data": "primary", "split": "test", "rows": 16}
    assert main(given) == 0
    out, err = capsys.readouterr()
    assert f"{values['rir']['rir']['mean']:.4g}" in out
    assert "primary accuracy, immunized" in out
    assert "primary: primary, measured on test (16 rows)" in err
    same = ["evaluate", str(world / "vit"), *given[2:], "--json"]
    assert main(same) == 0
    assert json.loads(capsys.readouterr().out)["rir"]["rir"]["mean"] == 1.0


def test_evaluation_that_cannot_be(world, capsys):
    given = ["evaluate", str(world / "vit"), "--base", str(world / "vit"), "--primary", str(world / "primary")]
    assert "evaluate needs --harmful" in error_of(capsys, given)
    one = error_of(capsys, [*given, "--harmful", str(world / "harmful"), "--max_samples", "1", "--json"])
    assert "two or more samples, got 1" in one
    typo = error_of(capsys, [*given, "--harmful", str(world / "harmful"), "--harmful_split", "tset", "--json"])
    assert "has the splits train; not 'tset'" in typo


def parsed(verb, *given):
    return parse({"train": train_parser, "quickstart": quickstart_parser}[verb](), given)


def test_the_command_line_goes_over_the_file(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        "model: someone/model\nlambda_harmful: 5e-5\nmax_steps: 7\nscale_free: false\ntrainable: [layer4, fc]\n"
        "label_smoothing_factor: 0.1\nweight_decay: 1e-4\ncontrol: true\n"
    )
    options = parsed("train", "--config", str(file), "--max_steps", "9", "--primary", "me/data")
    assert (options.model, options.primary, options.max_steps) == ("someone/model", "me/data", 9)
    # YAML reads 5e-5 as a word; it is a number here.
    assert options.lambda_harmful == 5e-5
    assert (options.scale_free, options.control) == (False, True)
    assert options.trainable == ["layer4", "fc"]
    assert (options.label_smoothing_factor, options.weight_decay) == (0.1, 1e-4)
    assert parsed("train", "--config", str(file), "--scale_free").scale_free is True
    # A value of the command line that equals the default still goes over the file.
    assert parsed("train", "--config", str(file), "--max_steps", "300").max_steps == 300
    file.write_text("primary_classes: [1, 2]\nharmful_classes: 3,4\n")
    quick = parsed("quickstart", "--config", str(file))
    assert (quick.primary_classes, quick.harmful_classes) == ([1, 2], [3, 4])
    # An alias is the option; a byte order mark is no part of the text.
    file.write_bytes(b"\xef\xbb\xbfbatch_size: 7\r\n")
    assert parsed("train", "--config", str(file)).per_device_train_batch_size == 7
    file.write_text("")
    assert parsed("train", "--config", str(file)).objective == "condition"


def test_a_run_by_a_file_alone(world, tmp_path):
    lines = {
        "model": world / "vit",
        "primary": world / "primary",
        "harmful": world / "harmful",
        "output_dir": tmp_path / "out",
        "max_steps": 2,
        "batch_size": 4,
        "harmful_batch_size": 6,
        "use_cpu": "true",
        "label_smoothing_factor": 0.1,
        "trainable": "[classifier]",
    }
    (tmp_path / "run.yaml").write_text("".join(f"{name}: {value}\n" for name, value in lines.items()))
    assert main(["train", "--config", str(tmp_path / "run.yaml"), "--lambda_harmful", "0.5"]) == 0
    record = ImmunizationRecord.load(tmp_path / "out")
    assert record.training["label_smoothing"] == 0.1
    assert record.objective["lambda_harmful"] == 0.5
    assert record.training["harmful_batch_size"] == 6
    assert record.trainable["modules"] == ["classifier"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lamda_harmful: 1.0", "unknown key 'lamda_harmful'; did you mean 'lambda_harmful'?"),
        ("label_smoothing: 0.1", "unknown key 'label_smoothing'; did you mean 'label_smoothing_factor'?"),
        ("max_steps: many", "max_steps must be a whole number, got 'many'"),
        ("objective: conditon", "objective must be one of condition"),
        ("max_steps: 2.5", "max_steps must be a whole number, got 2.5"),
        ("max_steps: true", "max_steps must be a whole number, got True"),
        ("control: maybe", "control must be true or false, got 'maybe'"),
        ("weight_decay: true", "weight_decay must be a number, got True"),
        ("seed: 1.5", "seed must be a whole number, got 1.5"),
        ("dataloader_num_workers: two", "dataloader_num_workers must be a whole number, got 'two'"),
        ("dataloader_drop_last: 1", "dataloader_drop_last must be true or false, got 1"),
        ("weight_decay: a lot", "weight_decay must be a number, got 'a lot'"),
        ("- model", "must hold `name: value` lines, got list"),
        ("model: [", "is not valid YAML"),
        ("run: x", "unknown key 'run'"),
    ],
)
def test_a_file_that_cannot_be_says_what_is_wrong(tmp_path, capsys, text, message):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(SystemExit) as ended:
        main(["train", "--config", str(tmp_path / "run.yaml")])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_missing_file_is_named(capsys, tmp_path):
    assert "there is no configuration file" in error_of(capsys, ["train", "--config", str(tmp_path / "no.yaml")], 2)


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
    # Words are class names, numbered in the order of the alphabet.
    assert main(training(world, tmp_path / "words-out", "--max_steps", "1", primary=tmp_path / "words")) == 0
    assert ImmunizationRecord.load(tmp_path / "words-out").primary.classes == ["a", "b"]
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
    check_whole(tmp_path / "out")
    # Nor are checkpoints of the earlier run left for a later --resume to find.
    assert [path.name for path in (tmp_path / "out-checkpoints").glob("checkpoint-*")] == ["checkpoint-1"]
    assert main(training(world, tmp_path / "out", "--overwrite", "--max_steps", "2")) == 0
    assert [path.name for path in (tmp_path / "out-checkpoints").glob("checkpoint-*")] == ["checkpoint-2"]


def test_without_a_network_the_error_is_about_the_network(world, tmp_path, capsys):
    given = training(world, tmp_path / "out")
    given[given.index("--model") + 1] = "someone/nothing"
    assert "HF_HUB_OFFLINE" in error_of(capsys, given)
    given = training(world, tmp_path / "out")
    given[given.index("--primary") + 1] = "someone/nothing"
    assert "could not be reached for the data set 'someone/nothing'" in error_of(capsys, given)


def test_a_push_that_cannot_be(released, tmp_path, capsys, monkeypatch):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    capsys.readouterr()
    assert "hf auth login" in error_of(capsys, ["push", str(released), "--repo_id", "me/model"])
    assert "push needs --repo_id" in error_of(capsys, ["push", str(released)])
    assert "There is no folder" in error_of(capsys, ["push", str(tmp_path / "none"), "--repo_id", "me/model"])


def test_greyscale_folders_of_images_train_too(world, tmp_path):
    for split, n in (("train", 16), ("test", 10)):
        for index, row in enumerate(picture_dataset(n, mode="L", seed=n)):
            target = tmp_path / "grey" / split / f"kind{row['label']}" / f"{index}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            row["image"].save(target)
    assert Image.open(target).mode == "L"
    assert main(training(world, tmp_path / "out", "--max_steps", "1", primary=tmp_path / "grey")) == 0
    assert ImmunizationRecord.load(tmp_path / "out").primary.classes == ["kind0", "kind1"]


def test_errors_of_the_program_itself_are_not_hidden(world, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise AttributeError("a fault of ours")

    monkeypatch.setattr("hf_immunize.training.immunize.save_immunized", broken)
    with pytest.raises(AttributeError, match="a fault of ours"):
        main(training(world, tmp_path / "out", "--max_steps", "1"))
