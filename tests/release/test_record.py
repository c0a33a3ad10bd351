"""immunization.json: what goes in comes out, and what is not a record says so."""

import json
import math

import pytest
import torch
from samples import COMMIT, sample_record

from hf_immunize.release.card import create_model_card
from hf_immunize.release.privacy import redact_tokens
from hf_immunize.release.record import (
    DatasetRecord,
    ImmunizationRecord,
    library_versions,
)

SECRET = "hf_" + "A1b2" * 8


def test_round_trip_from_the_folder_and_from_the_file(tmp_path):
    record = sample_record()
    path = record.save(tmp_path)
    assert path == tmp_path / "immunization.json"
    assert ImmunizationRecord.load(tmp_path) == record
    assert ImmunizationRecord.load(path) == record
    assert [one.name for one in tmp_path.iterdir()] == ["immunization.json"]


def test_file_is_sorted_indented_and_strict_json(tmp_path):
    record = sample_record()
    record.results["rir"]["immunized"]["rir"]["mean"] = math.inf
    record.results["primary_accuracy"]["initial"] = torch.tensor(0.5)
    text = record.save(tmp_path).read_text(encoding="utf-8")

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    values = json.loads(text, parse_constant=refuse)
    assert text == json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    loaded = ImmunizationRecord.load(tmp_path)
    assert loaded.results["rir"]["immunized"]["rir"]["mean"] == math.inf
    assert loaded.results["primary_accuracy"]["initial"] == 0.5


def test_saving_twice_gives_the_same_bytes(tmp_path):
    first = sample_record().save(tmp_path / "a").read_bytes()
    assert ImmunizationRecord.load(tmp_path / "a").save(tmp_path / "b").read_bytes() == first


@pytest.mark.parametrize(
    "command",
    [
        f"hf-immunize push out --token {SECRET}",
        f"hf-immunize push out --hub_token={SECRET}",
        f"HF_TOKEN={SECRET} hf-immunize push out",
        f"curl https://x/{SECRET}",
        "hf-immunize push out --token not-in-the-usual-form",
    ],
)
def test_no_token_reaches_the_file(tmp_path, command):
    text = sample_record(command=command, training={"note": [SECRET]}).save(tmp_path).read_text(encoding="utf-8")
    assert SECRET not in text
    assert "not-in-the-usual-form" not in text
    assert "<token>" in text


def test_redaction_leaves_other_words_alone():
    command = "hf-immunize train --model hf_internal/tiny --tokenizer x --primary hf_data"
    assert redact_tokens(command) == command


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 3}, "schema version 3.*Upgrade"),
        ({"schema_version": 0}, "schema version 0"),
        ({"schema_version": None}, "no immunization record"),
        ({"base_modle": "x"}, "'base_modle'.*'base_model'"),
        ({"library": "keras"}, "library must be one of 'transformers', 'timm', got 'keras'"),
        ({"base_model_kind": "cloud"}, "base_model_kind must be one of"),
        ({"primary": {"name": "x", "revison": "y"}}, "'revison' in primary.*'revision'"),
        ({"harmful": None}, "harmful must be a DatasetRecord"),
    ],
)
def test_what_is_no_record_says_why(tmp_path, change, message):
    path = sample_record().save(tmp_path)
    values = json.loads(path.read_text(encoding="utf-8")) | change
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        ImmunizationRecord.load(tmp_path)


def test_missing_field_missing_file_and_broken_json(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No immunization\.json"):
        ImmunizationRecord.load(tmp_path)
    path = sample_record().save(tmp_path)
    values = json.loads(path.read_text(encoding="utf-8"))
    del values["primary"]
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ValueError, match=r"not complete.*primary"):
        ImmunizationRecord.load(tmp_path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="not valid JSON"):
        ImmunizationRecord.load(tmp_path)


def test_a_dataset_is_on_the_hub_when_a_commit_pins_it_or_its_id_is_given():
    assert DatasetRecord("someone/birds", COMMIT).hub_dataset == "someone/birds"
    assert DatasetRecord("data/birds").hub_dataset is None
    assert DatasetRecord("birds of a package", hub_id="someone/birds").hub_dataset == "someone/birds"


def test_versions_name_the_libraries_that_decide_a_result():
    assert {"python", "torch", "transformers", "timm", "datasets", "huggingface_hub"} <= set(library_versions())


def test_a_base_model_in_a_subfolder_keeps_its_name_and_links_to_its_repository():
    record = sample_record(base_model="me/zoo/vision/small", command="train --model me/zoo/vision/small@v1")
    assert record.base_model_hub_id == "me/zoo"
    assert record.command == "train --model me/zoo/vision/small@v1"
    card = str(create_model_card(record, "me/immune"))
    assert "[me/zoo/vision/small](https://huggingface.co/me/zoo)" in card
    assert "base_model: me/zoo\n" in card
