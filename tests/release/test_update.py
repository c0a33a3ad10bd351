"""A release with further results: record, figures and card anew, the rest as it was."""

from __future__ import annotations

import pytest
from samples import attack_report, attacks, sample_record, tiny_vit

from hf_immunize.release.certify import certified
from hf_immunize.release.folder import save_immunized
from hf_immunize.release.update import update_release


@pytest.fixture
def release(tmp_path):
    model, processor = tiny_vit()
    results = {name: one for name, one in sample_record().results.items() if name != "attacks"}
    folder = save_immunized(
        tmp_path / "release", model, sample_record(results=results), processor, beside={"initial": model}
    )
    card = folder / "README.md"
    card.write_text(card.read_text() + "\n\n## Mine\n\nKeep this.\n")
    (folder / "notes.txt").write_text("mine")
    return folder


def test_results_reach_record_figures_and_card(release):
    weights = {path: path.read_bytes() for path in release.rglob("*.safetensors")}
    assert not (release / "figures" / "attacks.png").exists()
    assert update_release(release, {"attacks": attacks()}) == release
    record = certified(release)
    assert record.results["attacks"]["chance"] == 0.2
    assert record.results["rir"].keys() == {"immunized", "control"}
    card = (release / "README.md").read_text()
    assert "the best of 3 ways gets 68.4 %" in card
    assert "Keep this." in card
    assert (release / "figures" / "attacks.png").stat().st_size > 1000
    assert (release / "notes.txt").read_text() == "mine"
    assert {path: path.read_bytes() for path in release.rglob("*.safetensors")} == weights
    other = {"L-BFGS": {"initial": 0.9, "control": 0.9, "immunized": 0.5, "scratch": 0.3}}
    update_release(release, {"attacks": attack_report(other).to_dict()})
    assert "one way gets 50.0 %" in (release / "README.md").read_text()
    assert [path.name for path in release.parent.iterdir()] == ["release"]


def test_what_was_changed_by_hand_is_not_certified_by_the_way(release, tmp_path):
    (release / "config.json").write_text("{}")
    before = (release / "immunization.json").read_bytes()
    with pytest.raises(ValueError, match=r"config\.json"):
        update_release(release, {"attacks": attacks()})
    assert (release / "immunization.json").read_bytes() == before
    with pytest.raises(FileNotFoundError):
        update_release(tmp_path / "nowhere", {})
