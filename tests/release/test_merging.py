"""What an author wrote around the generated part of a card stays."""

import pytest
import yaml
from cards import card_of, metadata
from huggingface_hub import ModelCard
from samples import sample_record

from hf_immunize.release.card import create_model_card
from hf_immunize.release.merging import edited_inside, merge_cards, read_card, reconcile, without_generated
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


def with_author(before="", after="", **front):
    """A card of the sample record with an author's words and metadata around the generated part."""
    card = card_of()
    text = "\n\n".join(part for part in (before, card.text.strip(), after) if part)
    data = card.data.to_dict() | front
    return f"---\n{yaml.safe_dump(data, allow_unicode=True)}---\n\n{text}\n"


def words(card):
    """What stands around the generated part."""
    text = ModelCard(card).text
    start, end = text.index("<!-- hf-immunize: start"), text.index("<!-- hf-immunize: end -->")
    return text[:start].strip(), text[end + len("<!-- hf-immunize: end -->") :].strip()


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "wanted"),
    [
        ("a\n\nb", "a\n\nb", "a\n\nb", "a\n\nb"),
        ("a\n\nb", "A\n\nb", "a\n\nb", "A\n\nb"),
        ("a\n\nb", "a\n\nb", "a\n\nB", "a\n\nB"),
        ("a\n\nb", "A\n\nb", "a\n\nB", "A\n\nB"),
        ("a\n\nb", "b", "a\n\nb", "b"),
        ("a\n\nb", "a\n\nb", "b", "b"),
        ("a\n\nb", "b", "a\n\nb\n\nc", "b\n\nc"),
        ("a\n\nb", "a\n\nB", "b\n\nc", "B\n\nc"),
        ("a", "a\n\nours", "a\n\ntheirs", "a\n\ntheirs\n\nours"),
        ("a", "b", "b", "b"),
        ("", "new", "", "new"),
        ("a\n\nb\n\nc", "a\n\nc", "a\n\nb\n\nx\n\nc", "a\n\nx\n\nc"),
        ("a", "b", "c", None),
    ],
)
def test_words_are_merged_three_ways(base, ours, theirs, wanted):
    for place in ("before", "after"):
        cards = [with_author(**{place: text}) for text in (ours, theirs, base)]
        if wanted is None:
            with pytest.raises(ValueError, match="changed both in the folder and on the Hub"):
                reconcile(*cards)
            continue
        merged = reconcile(*cards)
        assert words(merged) == ((wanted, "") if place == "before" else ("", wanted))
        # Once more, nothing changes: no text doubles.
        assert reconcile(merged, merged, merged) == merged


def test_without_the_last_push_no_word_is_lost_and_none_doubles():
    ours, theirs = with_author(after="mine\n\nshared"), with_author(after="shared\n\nyours")
    assert words(reconcile(ours, theirs, None))[1] == "shared\n\nyours\n\nmine"
    assert words(reconcile(ours, ours, None))[1] == "mine\n\nshared"


@pytest.mark.parametrize("base", [None, "apache-2.0"])
def test_the_authors_licence_stands(base):
    ours, theirs = with_author(license="apache-2.0"), with_author(license="mit")
    last = None if base is None else with_author(license=base)
    assert metadata(ModelCard(reconcile(ours, theirs, last)))["license"] == "mit"
    assert metadata(create_model_card(sample_record(license="apache-2.0"), "me/x", existing=theirs))["license"] == "mit"
    assert metadata(create_model_card(sample_record(license="apache-2.0"), "me/x", existing="# x"))["license"] == (
        "apache-2.0"
    )


@pytest.mark.parametrize(("license", "left"), [("apache-2.0", None), ("mit", "mit")])
def test_what_the_record_generated_is_not_the_authors(license, left):
    tags = metadata(card_of())["tags"]
    card = with_author(before="Mine.", license=license, tags=[*tags, "my-tag"], language="en")
    own = ModelCard(without_generated(card, sample_record().to_dict()))
    assert (own.data.license, own.data.tags, own.data.language) == (left, ["my-tag"], "en")
    assert own.text.strip() == ModelCard(card).text.strip()
    # Metadata without a word of the author's leave none.
    assert without_generated("---\nlicense: mit\n---\nText\n", {"license": "mit"}).endswith("\n---\nText\n")
    record = sample_record(license="cc-by-nc-4.0", library="timm")
    merged = metadata(create_model_card(record, "me/x", existing=str(own)))
    assert merged["license"] == (left or "cc-by-nc-4.0")
    assert merged["tags"] == [*tags[:-1], "timm", "my-tag"]


def test_tags_and_other_metadata_are_merged_three_ways():
    tags = metadata(card_of())["tags"]
    base = with_author(tags=[*tags, "old", "kept"], language="en", extra="gone")
    ours = with_author(tags=[*tags, "old", "kept", "mine"], language="de", extra="gone")
    theirs = with_author(tags=[*tags, "kept", "yours"], language="en", thumbnail="t.png")
    merged = metadata(ModelCard(reconcile(ours, theirs, base)))
    assert merged["tags"] == [*tags, "kept", "mine", "yours"]
    assert (merged["language"], merged["thumbnail"]) == ("de", "t.png")
    assert "extra" not in merged
    with pytest.raises(ValueError, match="changed both"):
        reconcile(ours, with_author(language="fr"), base)


def test_figures_in_the_metadata_are_the_records():
    theirs = with_author()
    theirs = theirs.replace("value: 0.964", "value: 0.999")
    assert "0.999" in theirs
    assert "0.999" not in reconcile(with_author(), theirs, theirs)


@pytest.mark.parametrize(
    "card",
    [
        with_author() + with_author().split("---\n", 2)[2],
        with_author().replace("<!-- hf-immunize: end -->", ""),
        "---\ntags: [a\n---\ntext\n",
        "---\n- a\n---\ntext\n",
        "---\n" + "[" * 5000 + "\n---\ntext\n",
    ],
    ids=["two parts", "no end", "broken", "a list", "deep"],
)
def test_a_card_that_cannot_be_merged_says_so(card):
    with pytest.raises(ValueError, match=r"existing README\.md"):
        reconcile(with_author(), card, None)
    with pytest.raises(ValueError, match=r"existing README\.md"):
        merge_cards(card, card_of())


def test_what_is_no_text_is_no_card(tmp_path):
    (tmp_path / "README.md").write_bytes(b"\xff\xfe\x00caf\xe9")
    with pytest.raises(ValueError, match="no text in UTF-8"):
        read_card(tmp_path / "README.md")
    (tmp_path / "README.md").write_text("x" * 2_000_001)
    with pytest.raises(ValueError, match="longer than"):
        read_card(tmp_path / "README.md")
