"""A release is published as it was saved and measured, or not at all."""

import json
import re
import shutil

import pytest
import torch
from releases import save
from safetensors.torch import load_file, save_file
from samples import sample_record, tiny_vit

from hf_immunize.release.certify import certified, check_private
from hf_immunize.release.files import released_files
from hf_immunize.release.folder import save_immunized
from hf_immunize.release.record import ImmunizationRecord

TOKEN = "hf_" + "A1b2" * 8


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save(tmp_path_factory.mktemp("saved") / "release", figures=True)


@pytest.fixture
def release(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "release")


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "preprocessor_config.json", "immunization.json", "README.md"]
)
def test_a_folder_that_is_not_whole_names_what_it_lacks(release, name):
    assert certified(release) == ImmunizationRecord.load(release)
    (release / name).unlink()
    with pytest.raises(ValueError, match=rf"no whole release: it lacks {name}"):
        certified(release)


def test_a_missing_folder_figure_or_shard_is_named(release, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        certified(tmp_path / "absent")
    (release / "figures" / "spectra.png").unlink()
    with pytest.raises(ValueError, match=r"shows figures/spectra\.png, which is missing"):
        certified(release)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (release / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="model-00001-of-00002"):
        certified(release)


def other_weights(release):
    weights = load_file(release / "model.safetensors")
    weights["classifier.bias"][0] += 2**-20
    save_file(weights, release / "model.safetensors", metadata={"format": "pt"})


CHANGES = {
    "cut off": lambda release: (release / "model.safetensors").write_bytes(
        (release / "model.safetensors").read_bytes()[:-1]
    ),
    "empty": lambda release: (release / "model.safetensors").write_bytes(b""),
    "a pickle": lambda release: torch.save({"w": torch.zeros(1)}, release / "model.safetensors"),
    "one bit": other_weights,
    "config": lambda release: (release / "config.json").write_text('{"model_type": "vit"'),
    "config, other": lambda release: (release / "config.json").write_text('{"model_type": "vit"}'),
    "processor": lambda release: (release / "preprocessor_config.json").write_text("{}"),
    "figure": lambda release: (release / "figures" / "attacks.png").write_bytes(b"png"),
    "results": lambda release: (release / ".eval_results" / "hf_immunize.yaml").write_text("- value: 1\n"),
    "a shard of an earlier run": lambda release: (release / "model-00001-of-00002.safetensors").write_bytes(b"stale"),
    "an index that leads out": lambda release: (release / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"w": "../other/model.safetensors"}})
    ),
    "record, no files": lambda release: resaved(release, files={}),
}


def resaved(release, **changes):
    record = ImmunizationRecord.load(release)
    for name, value in changes.items():
        setattr(record, name, value)
    record.save(release)


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_not_as_it_was_saved_is_refused(release, change):
    CHANGES[change](release)
    with pytest.raises(ValueError, match=r"safetensors|config\.json|preprocessor|figures|hf_immunize\.yaml"):
        certified(release)


def digits(text, start):
    """Each digit of a text from ``start`` on, one at a time changed to another."""
    for match in re.finditer(r"\d", text[start:]):
        at = start + match.start()
        yield text[:at] + str((int(match.group()) + 1) % 10) + text[at + 1 :]


def test_no_digit_of_a_record_can_be_changed_by_hand(release):
    path = release / "immunization.json"
    text = path.read_text(encoding="utf-8")
    changed = list(digits(text, text.index('"results"')))
    assert len(changed) > 1_000
    # The seventeenth digit of a float may be another and the number the same.
    for one in (one for one in changed[::41] if json.loads(one) != json.loads(text)):
        path.write_text(one, encoding="utf-8")
        with pytest.raises(ValueError, match=r"was changed since it was written|cannot be"):
            certified(release)
    path.write_text(text, encoding="utf-8")
    certified(release)


def test_no_digit_of_the_generated_part_of_a_card_can_be_changed_by_hand(release):
    path = release / "README.md"
    text = path.read_text(encoding="utf-8")
    for one in list(digits(text, text.index("# release")))[::23]:
        path.write_text(one, encoding="utf-8")
        with pytest.raises(ValueError, match="changed by hand"):
            certified(release)


@pytest.mark.parametrize("value", [7.5, -1, "NaN", float("nan"), None, "0.9", [0.9]])
def test_an_accuracy_is_a_share(release, value):
    record = sample_record()
    record.results["primary_accuracy"]["immunized"] = value
    with pytest.raises(ValueError, match=r"results\.primary_accuracy\.immunized cannot be"):
        save(release, record, overwrite=True)
    values = json.loads((release / "immunization.json").read_text())
    values["results"]["primary_accuracy"]["immunized"] = value
    (release / "immunization.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"results\.primary_accuracy\.immunized cannot be"):
        certified(release)


def test_nothing_that_is_a_link_goes_up(release, tmp_path):
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "notes").write_text("private")
    for name, behind in {
        "LICENSE": tmp_path / "private" / "notes",
        "NOTICE.txt": release / "config.json",
        "figures/mine.png": tmp_path / "private" / "notes",
        ".eval_results": tmp_path / "private",
    }.items():
        if (release / name).is_dir():
            shutil.rmtree(release / name)
        (release / name).symlink_to(behind)
        with pytest.raises(ValueError, match=f"{re.escape(name)} is a link"):
            released_files(release)
        (release / name).unlink()
    released_files(release)


@pytest.mark.parametrize("name", ["LICENSE.html", "NOTICE.rst", "figures/mine.svg", ".eval_results/mine.yaml"])
def test_every_file_that_goes_up_is_scanned(release, name):
    (release / name).write_text(f"<!-- {TOKEN} -->")
    with pytest.raises(ValueError, match=f"{re.escape(name)} holds a Hub token") as caught:
        check_private(release, released_files(release)[0], None)
    assert TOKEN not in str(caught.value)


def test_a_place_on_this_machine_is_not_published(release, tmp_path):
    model, processor = tiny_vit()
    processor._name_or_path = "/home/me/client/vit"
    record = sample_record(command="hf-immunize train --primary /home/me/client/birds")
    record.training["notes"] = ["left out /home/me/client/birds/x.png"]
    folder = save_immunized(tmp_path / "out", model, record, processor, figures=False)
    check_private(folder, released_files(folder)[0], None)
    assert not [path for path in folder.rglob("*") if path.is_file() and b"client" in path.read_bytes()]
    path = release / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_name_or_path": "/home/me/client/vit"}))
    with pytest.raises(ValueError, match="tells where a file lies on this machine"):
        check_private(release, ["preprocessor_config.json"], None)
