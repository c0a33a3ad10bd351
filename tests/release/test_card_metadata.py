"""The metadata of a card, and results in the forms that the Hub reads."""

import yaml
from cards import card_of, metadata
from hub_repos import metadata_errors
from huggingface_hub import parse_eval_result_entries
from samples import COMMIT, rir_report, sample_record

from hf_immunize.release.card_metadata import eval_results_yaml
from hf_immunize.release.record import DatasetRecord


def test_metadata_are_valid_and_complete():
    data = metadata(card_of())
    assert metadata_errors(data) == []
    assert data["base_model"] == "someone/vit-tiny"
    assert data["base_model_relation"] == "finetune"
    assert data["datasets"] == ["someone/birds", "someone/faces"]
    assert data["pipeline_tag"] == "image-classification"
    assert data["library_name"] == "transformers"
    assert data["license"] == "apache-2.0"
    assert "model-immunization" in data["tags"]
    metrics = {m["type"]: m["value"] for result in data["model-index"][0]["results"] for m in result["metrics"]}
    assert metrics == {
        "accuracy": 0.964,
        "rir": 1.4e5,
        "rir_i": 2.1e7,
        "rir_ii": 150.0,
        "harmful_accuracy": 0.684,
    }
    assert data["model-index"][0]["results"][0]["dataset"] == {
        "name": "someone/birds",
        "type": "someone/birds",
        "config": "default",
        "split": "test",
        "revision": COMMIT,
    }


def test_only_ids_of_the_hub_are_named_as_such():
    local = DatasetRecord("digits 0 to 4 (a package)")
    data = metadata(card_of(base_model="a net of a package", base_model_kind="package", primary=local, harmful=local))
    assert metadata_errors(data) == []
    assert not {"base_model", "base_model_relation", "datasets"} & set(data)
    assert data["model-index"][0]["results"][0]["dataset"]["type"] == "digits-0-to-4-a-package"


def test_two_tasks_of_one_dataset_are_told_apart():
    tasks = {
        task: DatasetRecord("digits", eval_split="test", classes=classes, hub_id="someone/digits")
        for task, classes in (("primary", ["0", "1"]), ("harmful", ["2", "3"]))
    }
    card = card_of(**tasks)
    assert "An image classifier for **digits, classes 0, 1**" in card.text
    assert "fitting it to **digits, classes 2, 3** is held back" in card.text
    results = metadata(card)["model-index"][0]["results"]
    assert [one["dataset"]["name"] for one in results] == ["digits, classes 0, 1", "digits, classes 2, 3"]
    assert [one["metrics"][0]["type"] for one in results] == ["accuracy", "rir"]
    notes = [one.notes for one in parse_eval_result_entries(yaml.safe_load(eval_results_yaml(sample_record(**tasks))))]
    assert "classes: 0, 1" in notes[0]
    assert "classes: 2, 3" in notes[1]


def test_eval_results_hold_what_the_schema_demands():
    entries = parse_eval_result_entries(yaml.safe_load(eval_results_yaml(sample_record())))
    assert [(one.dataset_id, one.task_id, one.value, one.dataset_revision) for one in entries] == [
        ("someone/birds", "image-classification", 0.964, COMMIT),
        ("someone/faces", "relative-immunization-ratio", 1.4e5, COMMIT),
    ]
    assert "500 images" in entries[0].notes
    assert "20 groups of 100" in entries[1].notes


def test_eval_results_name_no_data_that_the_hub_does_not_have():
    local = DatasetRecord("digits (a package)")
    assert eval_results_yaml(sample_record(primary=local, harmful=local)) is None
    copied = DatasetRecord("digits (a package)", hub_id="someone/digits")
    (entry,) = yaml.safe_load(eval_results_yaml(sample_record(primary=copied, harmful=local)))
    assert entry["dataset"]["id"] == "someone/digits"
    assert "digits (a package)" in entry["notes"]


def test_an_infinite_ratio_stays_out_of_the_metadata():
    card = card_of(results={"rir": {"immunized": rir_report(float("inf"), float("inf"))}})
    assert "∞" in card.text
    types = [m["type"] for result in metadata(card)["model-index"][0]["results"] for m in result["metrics"]]
    assert types == ["rir_ii"]
