"""What an author wrote around the generated part of a card stays."""

import pytest
from cards import card_of, metadata
from samples import sample_record

from hf_immunize.release.card import create_model_card
from hf_immunize.release.merging import edited_inside, merge_cards
from hf_immunize.release.record import DatasetRecord


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
