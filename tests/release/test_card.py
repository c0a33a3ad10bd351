"""A card says what was measured, nothing else, and keeps what its author wrote."""

import re

import pytest
from cards import card_of, metadata
from huggingface_hub import ModelCard
from samples import ACCURACY, attack_report, rir_report, sample_record

from hf_immunize.release.card import create_model_card
from hf_immunize.release.record import DatasetRecord, ImmunizationRecord


def test_nested_settings_are_written_out():
    text = card_of(training={"fit": {"steps": 3, "warmup": None}, "modules": ["a", "b"], "lr": 0.1}).text
    assert "**Training:** fit.steps = 3, lr = 0.1, modules = a, b." in text


def test_notes_are_sentences_of_their_own():
    text = card_of(training={"notes": ["primary: took one", "harmful: took 0.5 of it", "Frozen part once."]}).text
    assert "**Notes:** primary: took one. harmful: took 0.5 of it. Frozen part once.\n" in text


def test_a_budget_is_one_sentence():
    step = {"step": 10, "accuracy": 0.9, "protection": 1.0, "multiplier": 1.0}
    budget = {"max_accuracy_drop": 0.5, "held_out": 1000, "initial_accuracy": 0.982, "final_accuracy": 0.978}
    text = card_of(training={"steps": 30, "budget": budget | {"kept_step": 10, "course": [step, step]}}).text
    asked = (
        "**Budget of primary accuracy:** 0.5 points on 1,000 primary training images that no step saw: 98.2 % on θ0, "
    )
    kept = "97.8 % at the end, the weights of step 10, the strongest within it of 2 states measured on the way."
    assert asked + kept in text
    assert "**Training:** steps = 30." in text
    text = card_of(training={"budget": budget | {"final_accuracy": 0.982, "kept_step": None, "course": [step]}}).text
    assert "98.2 % at the end, which is θ0 itself: none of 1 states measured on the way kept to it." in text
    assert "Budget" not in card_of().text


def test_every_measured_figure_is_on_the_card():
    text = card_of().text
    assert "| the kept task, accuracy | 96.8 % | 97.4 % | 96.4 % |" in text
    ratios = "2.1 × 10⁷ ± 0.25 | 150 ± 0.25 | 1.4 × 10⁵ ± 0.25"
    assert f"| immunized | 20 groups of 100 | {ratios} | 99 → 98 | 97 → 96 | 100 |" in text
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
    assert "| 1.0 % | 900 | > 10¹⁵ |" in text
    assert "| 10.0 % | 40 | 5.0 × 10⁶ |" in text
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
        "was measured:",
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


def test_what_a_release_adds_to_what_an_attacker_has_anyway_is_told():
    accuracy = {name: one | {"public": 0.6} for name, one in ACCURACY.items()}
    accuracy["last block"] = {"initial": 0.9, "control": 0.9, "immunized": 0.5, "scratch": 0.4, "public": 0.6}
    report = attack_report(accuracy).to_dict()
    tuned = {name: {"attacker": "last block", "mean": 0.8} for name in ("initial", "control", "immunized")}
    report["selectivity"] = (
        tuned
        | {"against": "control", "cost": 0.0}
        | {"fine-tuning": {"300": tuned | {"against": "control", "cost": 0.125}}}
    )
    record = sample_record(training={"primary_only": {"steps": 600, "accuracy": 0.84}})
    record.results["attacks"] = report
    card = create_model_card(ImmunizationRecord.from_dict(record.to_dict()), "me/immune").text
    # 68.4 % by the strongest head, 50 % by fine-tuning, where public weights give 60 %.
    assert re.search(r"\| probe \| all \| 300 \| public weights, 60\.0 % \|.*\| \+8\.4 \(", card)
    assert re.search(r"\| fine-tuning \| all \| 300 \| public weights, 60\.0 % \|.*\| −10\.0 \(", card)
    assert "Not measured: the primary task alone; with them it could only be less." in card
    assert "trained for 600 steps from random weights and gets 84.0 % of the primary images right" in card
    assert "Beyond public weights, which an attacker has anyway, that is 8.4 points at most, at 300 steps." in card
    assert "That is nothing beyond public weights, which an attacker has anyway." in card
    assert "Not all can be measured again by others: the networks that uplift is counted over are not published" in card
    assert "Fine-tuning for that task costs up to 12.5 points, at 300 steps, against the control." in card
    assert "| 300 | 80.0 % | 80.0 % | 80.0 % | 12.5 |" in card
    for block in re.findall(r"(?:^\|.*\n)+", card, flags=re.MULTILINE):
        assert len({row.count("|") for row in block.splitlines()}) == 1, block
    del report["uplift"]
    assert "Uplift" not in create_model_card(record, "me/immune").text


def test_bounds_and_precision_limits_are_marked():
    report = rir_report(bound="lower")
    report["all_samples"]["precision_limited"] = True
    text = card_of(results={"rir": {"immunized": report}}).text
    assert "| ≥ 2.1 × 10⁷ ± 0.25 | 150 ± 0.25 | ≥ 1.4 × 10⁵ ± 0.25 |" in text
    assert "≥ and ≤ mark bounds" in text
    assert "all samples, limited by precision" in text
    assert "“Limited by precision”" in text


def test_a_control_that_does_as_well_is_called_out():
    results = {"rir": {"immunized": rir_report(20.0), "control": rir_report(26.0)}}
    assert "does not show that the objective did anything" in card_of(results=results).text
    results = {"rir": {"immunized": rir_report(200.0), "control": rir_report(26.0)}}
    assert "does not show that the objective did anything" not in card_of(results=results).text


@pytest.mark.parametrize(
    ("library", "wanted", "unwanted"),
    [("timm", 'timm.create_model("hf-hub:me/immune"', "!"), ("transformers", 'model="me/immune"', "import timm")],
)
def test_the_loading_example_fits_the_library(library, wanted, unwanted):
    text = card_of(library=library).text
    assert wanted in text
    assert "import timm" in text if library == "timm" else unwanted not in text


def test_card_parses_again_to_the_same_text():
    card = card_of()
    assert str(ModelCard(str(card))) == str(card)


def test_whether_others_can_measure_again_is_said():
    """θ0 and both data sets must be published: by a commit of the Hub, a package, or within the release."""
    assert "hf-immunize verify me/immune" in card_of().text
    local = {"base_model_kind": "local", "base_model": "a folder", "base_model_revision": None}
    assert "measured again by others: θ0 is not published" in card_of(**local).text
    carried = card_of(**local, files={"initial/config.json": "0" * 64}).text
    assert "hf-immunize verify me/immune" in carried
    fitted = card_of(training={"steps": 3, "fit": {"steps": 3}}).text
    assert "θ0 is not published" in fitted
    private = card_of(harmful=DatasetRecord("faces", source="local", eval_split="test")).text
    assert "the harmful data are not published at a commit" in private


def test_attackers_without_steps_have_none():
    accuracy = {"ridge regression": ACCURACY["ridge regression"], "L-BFGS": ACCURACY["Adam, best rate"]}
    report = attack_report(accuracy).to_dict()
    for by_samples in report["attackers"]["ridge regression"]["accuracy"].values():
        for by_steps in by_samples.values():
            by_steps["10"] = by_steps["300"]
    text = create_model_card(sample_record(results={"attacks": report}), "me/immune").text
    assert re.search(r"\| ridge regression \| all \| – \|.*\| – \|", text)
    assert re.search(r"\| L-BFGS \| all \| 300 \|.*→.*\|", text)


def test_what_the_model_reads_is_said():
    assert "Input: RGB pictures, brought to 48 × 32 pixels" in card_of(input_shape=[3, 32, 48]).text
    grey = card_of(input_shape=[1, 28, 28]).text
    assert "Input: grey pictures" in grey
    assert '.convert("L")' in grey
    assert "Input:" not in card_of().text


@pytest.mark.parametrize("count", [1, 2])
def test_one_attacker_is_one(count):
    report = attack_report(dict(list(ACCURACY.items())[:count])).to_dict()
    text = card_of(results={"attacks": report}).text
    assert f"<summary>{count} attacker{'s' if count > 1 else ''} on the harmful task" in text
    report["budgets"]["seeds"] = list(range(count))
    assert f"mean over {count} seed{'s' if count > 1 else ''}, " in card_of(results={"attacks": report}).text
