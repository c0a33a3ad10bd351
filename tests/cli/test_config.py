"""Options from a file, with those of the command line over them."""

from __future__ import annotations

import shlex

import pytest
from commands import error_of

from hf_immunize.cli.config import command_of, parse
from hf_immunize.cli.main import main
from hf_immunize.cli.quickstart import parser as quickstart_parser
from hf_immunize.cli.train import parser as train_parser
from hf_immunize.release.record import ImmunizationRecord
from hf_immunize.training.arguments import ImmunizationArguments


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


def test_a_mapping_is_what_the_command_line_takes_as_json(tmp_path):
    (tmp_path / "run.yaml").write_text(
        "objective: lto\nobjective_kwargs: {inner_steps: 2, inner_learning_rate: 5e-3, first_order: true}\n"
        "lr_scheduler_type: cosine_with_restarts\nlr_scheduler_kwargs:\n  num_cycles: 2\n"
    )
    own = train_parser()
    options = parse(own, ["--config", str(tmp_path / "run.yaml"), "--output_dir", str(tmp_path / "out"), "--use_cpu"])
    args = own.of(ImmunizationArguments, options)
    assert args.objective_kwargs == {"inner_steps": 2, "inner_learning_rate": 0.005, "first_order": True}
    assert args.lr_scheduler_kwargs == {"num_cycles": 2}


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
        "trainable": "[vit.layernorm, classifier]",
    }
    (tmp_path / "run.yaml").write_text("".join(f"{name}: {value}\n" for name, value in lines.items()))
    assert main(["train", "--config", str(tmp_path / "run.yaml"), "--lambda_harmful", "0.5"]) == 0
    record = ImmunizationRecord.load(tmp_path / "out")
    assert record.training["label_smoothing"] == 0.1
    assert record.objective["lambda_harmful"] == 0.5
    assert record.training["harmful_batch_size"] == 6
    assert record.trainable["modules"] == ["vit.layernorm", "classifier"]


def test_what_yaml_makes_of_no_and_of_nothing(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("save_strategy: no\neval_strategy: off\nreport_to: null\nmax_steps:\nprimary_split: null\n")
    options, unset = parsed("train", "--config", str(file)), parsed("train")
    assert (options.save_strategy, options.eval_strategy) == ("no", "no")
    for name in ("report_to", "max_steps", "primary_split"):
        assert getattr(options, name) == getattr(unset, name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run_name: yes", "run_name must be a value, got True (YAML reads no, yes, on and off as such: put a word in"),
        ("lamda_harmful: 1.0", "unknown key 'lamda_harmful'. Did you mean 'lambda_harmful'?"),
        ("label_smoothing: 0.1", "unknown key 'label_smoothing'. Did you mean 'label_smoothing_factor'?"),
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
        ("model: {vit: 1}", "model must be a value, got the mapping {'vit': 1}"),
        ("objective_kwargs: {since: 2020-01-01}", "must hold numbers, words, lists and mappings"),
        ("trainable: []", "trainable is an empty list"),
        ("finetune_steps: []", "finetune_steps is an empty list"),
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
    "more",
    [
        [],
        ["--new_head", "--fit_steps", "7", "--no_control", "--keep", "initial", "control", "--attackers", "lora", "gd"],
        ["--trainable", "last", "score", "--primary", "a folder/it's here", "--scale_free", "false", "--seed", "3"],
        ["--resume_from_checkpoint", "--overwrite", "--json", "--token", "hf_secretsecretsecret"],
        ["--config", "run.yaml", "--seed", "4"],
        ["--config", "lists.yaml"],
        ["--config", "lists.yaml", "--keep", "initial", "--lambda_harmful", "0.1"],
    ],
)
def test_the_command_of_a_run_repeats_it(tmp_path, monkeypatch, more):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text("lambda_harmful: 0.2\nseed: 3\ncontrol: false\nresume_from_checkpoint: last\n")
    (tmp_path / "lists.yaml").write_text("keep: []\nattackers: []\nobjective_kwargs: {inner_steps: 2}\n")
    options = parse(train_parser(), ["--model", "vit", "--output_dir", "out", *more])
    words = shlex.split(command_of(train_parser(), options))
    assert words[:4] == ["hf-immunize", "train", "--model", "vit"]
    of_one_call = {"resume_from_checkpoint", "overwrite", "json", "hub_token", "config"}
    assert not of_one_call & {one.removeprefix("--") for one in words}
    again = vars(parse(train_parser(), words[2:]))
    for name, value in vars(options).items():
        assert name in of_one_call or again[name] == value, name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_steps: 3\nseed: 1\nmax_steps: 5\n", "max_steps stands there twice"),
        ("batch_size: 3\nper_device_train_batch_size: 5\n", "has 'batch_size' and 'per_device_train_batch_size'"),
    ],
)
def test_an_option_stands_once_in_a_file(tmp_path, capsys, text, said):
    (tmp_path / "run.yaml").write_text(text)
    assert said in error_of(capsys, ["train", "--config", str(tmp_path / "run.yaml")], 2)


@pytest.mark.parametrize("verb", ["evaluate", "attack", "verify"])
@pytest.mark.parametrize("size", ["0", "-4"])
def test_a_batch_holds_a_picture(verb, size, capsys):
    assert f"batch_size must be 1 or more, got {size}" in error_of(capsys, [verb, "m", "--batch_size", size], 2)
