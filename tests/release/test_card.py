"""A card says what was measured, nothing else, and keeps what its author wrote."""

import re

import pytest
import yaml
from hub_server import metadata_errors
from huggingface_hub import ModelCard, parse_eval_result_entries
from samples import ACCURACY, COMMIT, attack_report, rir_report, sample_record

from hf_immunize.release.card import create_model_card, edited_inside, merge_cards, number
from hf_immunize.release.card_metadata import eval_results_yaml
from hf_immunize.release.record import DatasetRecord


def card_of(**changes):
    return create_model_card(sample_record(**changes), "me/immune")


def metadata(card):
    return yaml.safe_load(str(card).split("---\n")[1])


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
    assert "for **digits, classes 0, 1** that was immunized against **digits, classes 2, 3**" in card.text
    results = metadata(card)["model-index"][0]["results"]
    assert [one["dataset"]["name"] for one in results] == ["digits, classes 0, 1", "digits, classes 2, 3"]
    assert [one["metrics"][0]["type"] for one in results] == ["accuracy", "rir"]
    notes = [one.notes for one in parse_eval_result_entries(yaml.safe_load(eval_results_yaml(sample_record(**tasks))))]
    assert "classes: 0, 1" in notes[0]
    assert "classes: 2, 3" in notes[1]


def test_nested_settings_are_written_out():
    text = card_of(training={"fit": {"steps": 3, "warmup": None}, "modules": ["a", "b"], "lr": 0.1}).text
    assert "**Training:** fit.steps = 3, lr = 0.1, modules = a, b." in text


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


def test_every_measured_figure_is_on_the_card():
    text = card_of().text
    assert "| accuracy on 500 images | 96.8 % | 97.4 % | 96.4 % |" in text
    assert (
        "| immunized | 20 groups of 100 | 2.1e7 ± 0.25 | 150 ± 0.25 | 1.4e5 ± 0.25 | 99 → 98 | 97 → 96 | 100 |" in text
    )
    assert re.search(r"\| immunized \| all samples \|.*\| 20 → 20 \| 20 → 20 \| 60 / 60 \|", text)
    assert "| control | 20 groups of 100 | 690 ± 0.25 | 34 ± 0.25 | 26 ± 0.25 |" in text
    assert "not over seeds" in text
    assert re.search(r"\| Adam, best rate \| all \| 300 \| 95\.4 % \(9\d–9\d\) \| 93\.0 % \(.*?\) \| 68\.4 % ", text)
    assert "weakened, not stopped. The strongest (Adam, best rate) recovers 51 % of what θ0 gives" in text
    assert re.search(
        r"\| probe \| all \| 10 \| 47\.6 % \(Adam, best rate\) \|.*\| 34\.2 % \(Adam, best rate\) \|", text
    )
    assert re.search(r"\| probe \| all \| 300 \| 95\.4 % \(Adam, best rate\) \|", text)
    assert "79.0 % on the control, 75.0 % on the immunized model" in text
    assert "Its cost against the control is 4.0 points" in text
    assert "| 1.0 % | 900 | > 1e15 |" in text
    assert "| 10.0 % | 40 | 5.0e6 |" in text
    assert "(figures/spectra.png)" in text
    assert "(figures/attacks.png)" in text
    assert "(ii) is above 1" in text
    assert "hf-immunize train --model someone/vit-tiny" in text
    assert "training = 7" in text


def test_tables_have_as_many_cells_in_every_row():
    for block in re.findall(r"(?:^\|.*\n)+", card_of().text, flags=re.MULTILINE):
        assert len({row.count("|") for row in block.splitlines()}) == 1, block
        assert len(block.splitlines()) >= 3


def test_what_was_not_measured_leaves_no_sentence():
    text = card_of(results={}, benign=None).text
    for word in (
        "accuracy",
        "RIR",
        "| attacker",
        "strongest",
        "figures",
        "control",
        "What was measured",
        "measured below",
    ):
        assert word not in text, word
    assert "not measured" in text
    assert "model-index" not in metadata(card_of(results={}))


def test_fine_tuning_is_called_measured_only_where_it_was():
    assert "fine-tuning the backbone was not measured" in card_of().text
    record = sample_record()
    accuracy = ACCURACY | {"last block": dict.fromkeys(("initial", "control", "immunized", "scratch"), 0.9)}
    record.results["attacks"] = attack_report(accuracy).to_dict()
    assert "fine-tuning the backbone (measured above)" in create_model_card(record, "me/immune").text


def test_bounds_and_precision_limits_are_marked():
    report = rir_report(bound="lower")
    report["all_samples"]["precision_limited"] = True
    text = card_of(results={"rir": {"immunized": report}}).text
    assert "| ≥ 2.1e7 ± 0.25 | 150 ± 0.25 | ≥ 1.4e5 ± 0.25 |" in text
    assert "≥ and ≤ mark bounds" in text
    assert "all samples, limited by precision" in text
    assert "“Limited by precision”" in text


def test_a_control_that_does_as_well_is_called_out():
    results = {"rir": {"immunized": rir_report(20.0), "control": rir_report(26.0)}}
    assert "does not show that the objective did anything" in card_of(results=results).text
    results = {"rir": {"immunized": rir_report(200.0), "control": rir_report(26.0)}}
    assert "does not show that the objective did anything" not in card_of(results=results).text


def test_an_infinite_ratio_stays_out_of_the_metadata():
    card = card_of(results={"rir": {"immunized": rir_report(float("inf"), float("inf"))}})
    assert "∞" in card.text
    types = [m["type"] for result in metadata(card)["model-index"][0]["results"] for m in result["metrics"]]
    assert types == ["rir_ii"]


def test_names_cannot_break_out_of_a_table():
    text = card_of(primary=DatasetRecord("a | b\n# c <script>", classes=["x|y"])).text
    assert "<script>" not in text
    assert "\n# c" not in text
    assert "a \\| b # c &lt;script>" in text


@pytest.mark.parametrize(
    ("library", "wanted", "unwanted"),
    [("timm", 'timm.create_model("hf-hub:me/immune"', "!"), ("transformers", 'model="me/immune"', "import timm")],
)
def test_the_loading_example_fits_the_library(library, wanted, unwanted):
    text = card_of(library=library).text
    assert wanted in text
    assert "import timm" in text if library == "timm" else unwanted not in text


def test_a_second_card_keeps_the_authors_text_and_metadata():
    first = str(card_of())
    body = first.split("---\n", 2)
    edited = f"---\nlanguage: en\n{body[1]}---\n\nMy introduction.\n{body[2].rstrip()}\n\n## My chapter\n\nMine.\n"
    edited = edited.replace("- model-immunization\n", "- model-immunization\n- my-tag\n")
    record = sample_record(seeds={"training": 8})
    second = create_model_card(record, "me/immune", existing=edited)
    text = second.text
    assert text.index("My introduction.") < text.index("# immune") < text.index("## My chapter")
    assert "training = 8" in text
    assert "training = 7" not in text
    assert text.count("<!-- hf-immunize: start") == 1
    data = metadata(second)
    assert data["language"] == "en"
    assert data["tags"].count("my-tag") == 1
    assert data["tags"].count("model-immunization") == 1
    assert str(create_model_card(record, "me/immune", existing=str(second))) == str(second)


def test_a_card_without_marks_stays_below_the_generated_part():
    text = create_model_card(sample_record(), "me/immune", existing="# Old title\n\nOld words.\n").text
    assert text.index("<!-- hf-immunize: end -->") < text.index("# Old title")


def test_metadata_of_an_earlier_run_do_not_stay():
    local = DatasetRecord("digits (a package)")
    second = create_model_card(
        sample_record(primary=local, harmful=local, results={}), "me/immune", existing=str(card_of())
    )
    assert not {"datasets", "model-index", "metrics"} & set(metadata(second))


def test_broken_metadata_of_an_existing_card_say_what_to_repair():
    with pytest.raises(ValueError, match="Repair the YAML"):
        merge_cards("---\ntags: [a\n---\ntext\n", card_of())


def test_an_edit_inside_the_generated_part_is_noticed():
    card = str(card_of())
    assert not edited_inside(card)
    assert edited_inside(card.replace("What was measured", "What we measured"))
    assert not edited_inside(card + "\nMore.\n")


def test_card_parses_again_to_the_same_text():
    card = card_of()
    assert str(ModelCard(str(card))) == str(card)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.108, "0.108"), (26.0, "26"), (150.3, "150"), (4321.0, "4321"), (2.1e7, "2.1e7"), (3e-5, "3.0e-5")],
)
def test_numbers_are_short(value, text):
    assert number(value) == text
