"""A card names its release, and what its record was made from."""

import pytest
from cards import card_of
from samples import COMMIT, sample_record

from hf_immunize.release.card import create_model_card
from hf_immunize.release.merging import generated_text
from hf_immunize.release.naming import name_in, other_names
from hf_immunize.release.record import DatasetRecord


def block_of(record=None, name="me/immune"):
    return generated_text(str(create_model_card(record or sample_record(), name)))


@pytest.mark.parametrize("name", ["me/vit-16", "7", "x_y *z*", "release", 'a"b', "<i>", "me/sub/1.5"])
@pytest.mark.parametrize(
    "changes", [{}, {"library": "timm"}, {"architecture": "ViTModel"}], ids=["classifier", "timm", "backbone"]
)
def test_the_name_that_a_card_was_written_for(name, changes):
    assert name_in(block_of(sample_record(**changes), name), "other") == name


def test_a_card_that_tells_no_name_has_that_of_the_release():
    assert name_in("Words.", "other") == "other"
    assert name_in("# A title\n\nWords.", "other") == "A title"
    assert name_in('# vit\n\nclassifier = pipeline(model="evil/resnet")', "other") == "vit"


NAMES = [
    ("θ0", "someone/vit-tiny", "google/vit-base"),
    ("θ0", "someone/vit-tiny", "someone/vit-tiny-2"),
    ("θ0", COMMIT, "f" * 40),
    ("the architecture", "ViTForImageClassification", "ResNetForImageClassification"),
    ("the licence", "apache-2.0", "mit"),
    ("the data", "someone/birds", "someone/birds.v2"),
    ("the harmful data", "someone/faces", "someone/hands"),
    ("the primary data", "| mit |", "| gpl-3.0 |"),
    ("the benign data", "textures in a folder", "MNIST"),
]


@pytest.mark.parametrize(("what", "name", "instead"), NAMES)
def test_another_name_than_the_records_is_told(what, name, instead):
    block = block_of()
    assert not list(other_names(block, sample_record()))
    assert name in block
    assert what in dict(other_names(block.replace(name, instead), sample_record()))


def test_names_of_any_kind_are_found_in_the_card_of_their_record():
    odd = DatasetRecord("a_b *c* <d> www.x.y | (e).", classes=["x", "_y_"], license="other (see LICENSE)")
    record = sample_record(
        primary=odd, harmful=odd, benign=None, base_model="a folder: my_vit.2", base_model_kind="local", license=None
    )
    assert not list(other_names(block_of(record), record))


def test_a_card_without_those_lines_names_nothing():
    assert not list(other_names("# immune\n\nAn image classifier of an earlier template.", sample_record()))
    assert not list(other_names(generated_text(str(card_of(results={}))), sample_record(results={})))
