"""The ready configurations of the paper's set-ups: every key is known, and a run with data of the same schema works."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import yaml
from datasets import DatasetDict
from tiny import picture_dataset

from hf_immunize import ImmunizationArguments
from hf_immunize.cli.config import parse
from hf_immunize.cli.main import main
from hf_immunize.cli.train import parser
from hf_immunize.models.loading import load_model
from hf_immunize.release.folder import save_immunized
from hf_immunize.release.record import DatasetRecord, ImmunizationRecord

CONFIGS = sorted((Path(__file__).parents[2] / "scripts" / "configs").glob("*.yaml"))


def test_all_eight_are_there():
    assert [path.stem for path in CONFIGS] == [
        f"{whose}_{backbone}_{harmful}"
        for whose in ("ours", "paper")
        for backbone in ("resnet18", "vit_base")
        for harmful in ("cars", "country211")
    ]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_key_reaches_the_arguments(path, tmp_path):
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    own = parser()
    options = parse(own, ["--config", str(path), "--output_dir", str(tmp_path / "out")])
    arguments = own.of(ImmunizationArguments, options)
    for key, value in values.items():
        if key == "trainable":
            assert arguments.trainable == [value]
        elif hasattr(arguments, key):
            assert getattr(arguments, key) == value, key
        elif hasattr(options, key):
            assert getattr(options, key) == value, key
        else:
            pytest.fail(f"{key} went nowhere")
    assert arguments.scale_free is path.stem.startswith("ours")
    assert arguments.label_smoothing_factor == 0.1
    assert arguments.per_device_train_batch_size == values["per_device_train_batch_size"]


@pytest.mark.parametrize("stem", ["paper_resnet18_cars", "ours_vit_base_country211"])
def test_a_run_with_data_of_the_same_schema(stem, tmp_path):
    values = yaml.safe_load((CONFIGS[0].parent / f"{stem}.yaml").read_text(encoding="utf-8"))
    for task, splits in (("primary", ("train", "validation", "test")), ("harmful", ("train", "test"))):
        parts = {split: picture_dataset(40, 3, 16, seed=index) for index, split in enumerate(splits)}
        DatasetDict(parts).save_to_disk(tmp_path / task)
    name = "test_resnet" if "resnet" in stem else "test_vit"
    model = timm.create_model(name, num_classes=3)
    bare = ImmunizationRecord(name, "timm", DatasetRecord("none"), DatasetRecord("none"), base_model_kind="local")
    save_immunized(tmp_path / "model", model, bare)
    values |= {
        "model": str(tmp_path / "model"),
        "primary": str(tmp_path / "primary"),
        "harmful": str(tmp_path / "harmful"),
        "output_dir": str(tmp_path / "out"),
        "per_device_train_batch_size": 8,
        "max_steps": 2,
        "dataloader_num_workers": 0,
        "use_cpu": True,
    }
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    assert main(["train", "--config", str(config), "--json"]) == 0
    record = ImmunizationRecord.load(tmp_path / "out")
    assert record.primary.eval_split == "validation"
    assert record.objective["scale_free"] is values["scale_free"]
    assert record.training["label_smoothing"] == 0.1
    assert set(record.results["primary_accuracy"]) == {"initial", "immunized", "control"}
    assert load_model(tmp_path / "out").library == "timm"
