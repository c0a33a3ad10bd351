"""A release as it was published: a folder or a repository, its models, and its card beside its record."""

from __future__ import annotations

import functools
import json
import re
import shutil

import pytest
from samples import sample_record, tiny_vit

from hf_immunize.release import released
from hf_immunize.release.card import create_model_card
from hf_immunize.release.folder import save_immunized
from hf_immunize.release.merging import generated_text, marked
from hf_immunize.release.plan import card_for
from hf_immunize.release.released import Released, find_release, published_claims

CARD, RESULTS = "the card says what the record says", ".eval_results/hf_immunize.yaml"
RECORD = "the record is as it was written"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    model, processor = tiny_vit()
    return save_immunized(
        tmp_path_factory.mktemp("saved") / "release", model, sample_record(), processor, beside={"initial": model}
    )


@pytest.fixture
def release(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "release")


def statuses(folder):
    return {one.name: one.status for one in published_claims(find_release(folder))}


def test_a_folder_is_found_with_the_models_that_it_carries(release):
    found = find_release(release)
    assert (found.name, found.revision) == ("release", None)
    assert found.holds("initial")
    assert not found.holds("control")
    assert found.load("immunized").architecture == found.load("initial").architecture == "ViTForImageClassification"
    with pytest.raises(ValueError, match="does not carry the control model"):
        found.load("control")
    with pytest.raises(ValueError, match="has no revision 'v1'"):
        find_release(release, "v1")


def test_what_is_no_release_is_refused(release, tmp_path):
    (release / "immunization.json").unlink()
    with pytest.raises(ValueError, match=r"holds no immunization\.json"):
        find_release(release)
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        find_release(tmp_path / "nowhere")


def test_card_metadata_and_results_say_what_the_record_says(release):
    assert set(statuses(release).values()) == {"holds"}
    assert len(statuses(release)) == 5


@pytest.mark.parametrize(
    ("file", "pattern", "least", "differs"),
    [
        ("README.md", r"(?<= value: )-?[\d.]+", 5, {"the card's metadata (model-index)"}),
        (RESULTS, r"(?<=value: )-?[\d.]+", 2, {RESULTS, "the files"}),
        ("config.json", r'(?<="num_hidden_layers": )2', 1, {"the files"}),
    ],
)
def test_a_digit_that_is_changed_is_seen_whichever_figure_it_is_of(release, file, pattern, least, differs):
    text = (release / file).read_text()
    figures = list(re.finditer(pattern, text))
    assert len(figures) >= least
    for one in figures:
        (release / file).write_text(other_digit(text, one.end() - 1))
        assert {name for name, status in statuses(release).items() if status == "differs"} == differs, one


def other_digit(text, at):
    row = next(one for one in ("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹") if text[at] in one)
    return f"{text[:at]}{row[(row.index(text[at]) + 1) % 10]}{text[at + 1 :]}"


def test_every_figure_of_a_card_is_compared_with_the_record(release, monkeypatch):
    """With the digest of the changed part, as somebody who knows how cards are made would write it."""
    own = create_model_card(find_release(release).record, "release")
    monkeypatch.setattr(released, "create_model_card", lambda *_, **__: own)
    card, files = (release / "README.md").read_text(), released.checksums(release)
    monkeypatch.setattr(released, "checksums", lambda _: files)
    block = generated_text(card)
    # θ0 is a name; what is cited is the same on every card.
    figures = list(re.finditer(r"(?<!θ)\d+|[⁰¹²³⁴⁵⁶⁷⁸⁹]+", block[: block.index("## Citation")]))
    assert len(figures) > 300
    for one in figures:
        rewritten(release, functools.partial(other_digit, at=one.end() - 1), card)
        assert statuses(release)[CARD] == "differs", block[one.start() - 60 : one.end() + 20]


def test_a_folder_may_be_renamed(release):
    for name in ("lite0-v2_7", "7"):
        release = release.rename(release.with_name(name))
        assert set(statuses(release).values()) == {"holds"}


@pytest.mark.parametrize("written", ["me/vit", "me/vit-16", "user-7/vit_b16", "release"])
@pytest.mark.parametrize("now", ["me/vit2", "me/vit-32", "you/vit"])
def test_a_repository_may_be_renamed_or_copied(release, written, now):
    record = find_release(release).record
    (release / "README.md").write_text(card_for(release, record, written, (release / "README.md").read_text()))
    found = Released(now, "a" * 40, release, record)
    assert {one.status for one in published_claims(found)} == {"holds"}


@pytest.mark.parametrize("newline", ["\r\n", "\n"])
def test_line_ends_are_no_edit(release, newline):
    text = (release / "README.md").read_text()
    (release / "README.md").write_bytes(text.replace("\n", newline).encode())
    assert set(statuses(release).values()) == {"holds"}


def test_a_title_hides_no_figure(release):
    """A card that is called by a figure says that figure in no other place."""
    card = release / "README.md"
    card.write_text(card.read_text().replace("\n# release\n", "\n# 96.4\n"))
    assert statuses(release)[CARD] == "differs"


def test_a_record_that_was_changed_under_its_card_is_seen(release):
    record = find_release(release).record
    record.results["primary_accuracy"]["immunized"] = 0.999
    record.save(release)
    assert {name for name, status in statuses(release).items() if status == "holds"} == {RECORD, "the files"}
    values = json.loads((release / "immunization.json").read_text())
    (release / "immunization.json").write_text(json.dumps(values | {"command": "hf-immunize train", "license": "mit"}))
    assert statuses(release)[RECORD] == "differs"


def test_weights_that_are_not_here_are_named_and_what_is_here_is_compared(release):
    (release / "model.safetensors").unlink()
    _, found, *_ = published_claims(find_release(release))
    assert (found.status, found.why) == ("cannot be checked", "Not here: model.safetensors.")
    (release / "config.json").write_text("{}")
    assert statuses(release)["the files"] == "differs"


def test_files_that_the_record_does_not_name_are_seen_and_figures_that_are_gone_are_said(release):
    (release / "figures" / "spectra.png").unlink()
    _, found, *_ = published_claims(find_release(release))
    assert (found.status, found.why) == ("holds", "Not here: figures/spectra.png.")
    (release / "model.safetensors.index.json").write_text("{}")
    (release / "model-00001-of-00001.safetensors").write_bytes(b"other weights")
    _, found, *_ = published_claims(find_release(release))
    assert found.status == "differs"
    assert found.why == "It names no model-00001-of-00001.safetensors, model.safetensors.index.json."


def test_an_authors_own_words_change_nothing(release):
    card = release / "README.md"
    card.write_text(card.read_text() + "\n\n## Notes\n\nTrained in 2026 with 17 coffees.\n")
    assert set(statuses(release).values()) == {"holds"}


def test_a_card_that_is_gone_or_not_readable_is_said(release):
    (release / "README.md").write_text("---\n[\n---\n")
    found = list(published_claims(find_release(release)))
    assert [one.status for one in found] == ["holds", "holds", "cannot be checked", "differs"]
    (release / "README.md").unlink()
    assert [one.status for one in published_claims(find_release(release))] == ["holds", "holds", "cannot be checked"]


def rewritten(release, change, text=None):
    """Writes the card with another generated part, and with the digest of that."""
    card = release / "README.md"
    text = text or card.read_text()
    block = generated_text(text)
    changed = change(block)
    assert changed != block
    text = re.sub(r"<!-- hf-immunize: start .*<!-- hf-immunize: end -->", lambda _: marked(changed), text, flags=re.S)
    card.write_text(text)


def earlier(text):
    """The card as another template would have put it: other words, other heads of tables, parts that it lacked."""
    text = re.sub(r"## Limits.*?## What was measured", "## Measured", text, flags=re.S)
    text = text.replace("gets", "recovers").replace("of the harmful test images right", "of the images")
    text = text.replace("| the harmful task, the best new head |", "| harmful, by probes |")
    text = re.sub(r"\*\*Uplift\.\*\*.*?(?=The strongest attacker at)", "", text, flags=re.S)
    return re.sub(r" \(95 % bootstrap interval over them\)", "", text)


def test_a_card_in_the_words_of_an_earlier_template_is_no_edited_card(release):
    rewritten(release, earlier)
    assert set(statuses(release).values()) == {"holds"}


@pytest.mark.parametrize("words", [lambda text: text, earlier], ids=["of today", "earlier"])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("| 68.4 % (", "| 68.5 % ("),
        ("68.4 % of the", "95.4 % of the"),
        ("**held back in part**", "**held back**"),
        ("Adam, best rate", "Adam"),
        ("probe | all | 10 | 47.6 %", "probe | all | 10 | 46.6 %"),
        ("(0.34 to", "(0.33 to"),
    ],
)
def test_whatever_the_words_another_figure_or_verdict_is_an_edited_card(release, words, old, new):
    rewritten(release, lambda text: words(text.replace(old, new)))
    assert statuses(release)[CARD] == "differs"


@pytest.mark.parametrize("words", [lambda text: text, earlier], ids=["of today", "earlier"])
@pytest.mark.parametrize("name", ["someone/vit-tiny", "someone/birds", "ViTForImageClassification", "apache-2.0"])
def test_whatever_the_words_another_name_is_an_edited_card(release, words, name):
    rewritten(release, lambda text: words(text.replace(name, f"google/{name}")))
    assert statuses(release)[CARD] == "differs"


def test_a_figure_that_no_record_holds_cannot_be_checked(release):
    rewritten(release, lambda text: text + "\n\nThe network was audited for 77.7 hours.")
    assert statuses(release)[CARD] == "cannot be checked"


def test_a_file_of_results_that_an_earlier_version_did_not_write_claims_nothing(release):
    (release / ".eval_results" / "hf_immunize.yaml").unlink()
    assert set(statuses(release).values()) == {"holds"}
