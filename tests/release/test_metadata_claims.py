"""The metadata of a card and its file of results claim figures of some data: of the record's, or it is said."""

from __future__ import annotations

import copy

import pytest
import yaml
from samples import sample_record

from hf_immunize.release.card_metadata import card_metadata, eval_results_yaml
from hf_immunize.release.metadata_claims import metadata_claims, results_claims
from hf_immunize.release.record import DatasetRecord


def metadata(**changes):
    return copy.deepcopy(card_metadata(sample_record(**changes), "me/immune").to_dict())


def found(data, **changes):
    return [(one.name, one.status, one.claimed) for one in metadata_claims(sample_record(**changes), data)]


INDEX = "the card's metadata (model-index)"
LOCAL = {"primary": DatasetRecord("birds in a folder", split="train", eval_split="test"), "base_model_kind": "local"}


@pytest.mark.parametrize("changes", [{}, LOCAL, {"results": {}}], ids=["of the Hub", "local", "nothing measured"])
def test_what_the_record_generates_holds(changes):
    data = metadata(**changes)
    assert {status for _, status, _ in found(data, **changes)} <= {"holds"}
    # What is not given is not claimed.
    assert found({"language": "en", "tags": ["mine"]}, **changes) == []


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [
        ("dataset", "type", "ILSVRC/imagenet-1k"),
        ("dataset", "name", "ImageNet-1k"),
        ("dataset", "config", "hard"),
        ("dataset", "split", "validation"),
        ("dataset", "revision", "f" * 40),
        ("metric", "type", "f1"),
        ("metric", "name", "Accuracy on every task"),
        ("metric", "value", 0.999),
        ("task", "type", "image-segmentation"),
    ],
)
def test_figures_of_other_data_or_by_another_name_differ(place, key, value):
    data = metadata()
    entry = data["model-index"][0]["results"][0]
    (entry["metrics"][0] if place == "metric" else entry[place])[key] = value
    ((name, status, claimed),) = found(data)
    assert (name, status) == (INDEX, "differs")
    assert str(value) in claimed


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("base_model", "google/vit-base-patch16-224"),
        ("datasets", ["someone/birds", "ILSVRC/imagenet-1k"]),
        ("library_name", "timm"),
    ],
)
def test_another_origin_differs(key, value):
    claimed = value if isinstance(value, str) else value[-1]
    assert (f"the card's metadata ({key})", "differs", claimed) in found(metadata() | {key: value})
    if key != "library_name":
        assert (f"the card's metadata ({key})", "differs") in [
            one[:2] for one in found(metadata(**LOCAL) | {key: value}, **LOCAL)
        ]


def test_an_authors_licence_is_said_and_does_not_count():
    (said,) = [one for one in metadata_claims(sample_record(), metadata() | {"license": "mit"}) if not one.asked]
    assert said.why == "The card's metadata give the licence mit, the record apache-2.0."


@pytest.mark.parametrize("index", ["x", [3], [{"results": [{"metrics": ["x"]}]}]])
def test_an_index_that_cannot_be_read_differs(index):
    assert [one[:2] for one in found({"model-index": index})] == [(INDEX, "differs")]


@pytest.mark.parametrize("key", ["id", "task_id", "revision"])
def test_a_file_of_results_names_its_data(key):
    record = sample_record()
    entries = yaml.safe_load(eval_results_yaml(record))
    assert [one.status for one in results_claims(record, yaml.safe_dump(entries))] == ["holds"]
    entries[0]["dataset"][key] = "other"
    assert [one.status for one in results_claims(record, yaml.safe_dump(entries))] == ["differs"]
    assert [one.status for one in results_claims(record, "- [")] == ["differs"]
    assert [one.status for one in results_claims(record, "- 3")] == ["differs"]
