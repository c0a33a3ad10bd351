"""Columns are found by type and by name."""

from __future__ import annotations

import pytest
from datasets import ClassLabel, Dataset, Value

from hf_immunize.data.class_order import names_of
from hf_immunize.data.columns import choose_columns, label_column_of


def columns(data, *named, **options):
    found = choose_columns(data, *named, **options)
    return found.image, found.label


def test_columns_are_found_by_type_and_then_by_name(pictures):
    assert columns(pictures) == ("image", "label")
    renamed = pictures.rename_columns({"image": "photo", "label": "species"})
    assert columns(renamed) == ("photo", "species")
    # A column that only sounds right does not win over one of the right type.
    assert columns(renamed.add_column("label", ["x"] * 12)) == ("photo", "species")
    plain = pictures.cast_column("label", Value("int64")).rename_column("label", "fine_label")
    assert columns(plain) == ("image", "fine_label")
    assert columns(pictures.remove_columns("label"), labels="optional") == ("image", None)
    two = pictures.add_column("coarse", [0] * 12, feature=ClassLabel(names=["all"]))
    assert columns(two, label_column="coarse") == ("image", "coarse")


def test_columns_that_cannot_be_found_say_what_there_is(pictures):
    with pytest.raises(ValueError, match=r"no column 'lable'; the columns are image, label. Did you mean 'label'\?"):
        columns(pictures, label_column="lable")
    with pytest.raises(ValueError, match="no column of images; its columns are text, label"):
        columns(Dataset.from_dict({"text": ["a"], "label": [0]}))
    with pytest.raises(ValueError, match="no column of labels; its columns are image"):
        columns(pictures.remove_columns("label"))


def test_model_inputs_have_their_labels_where_pictures_have_them(pictures):
    two = pictures.add_column("coarse", [0] * 12, feature=ClassLabel(names=["all"])).rename_column(
        "label", "fine_label"
    )
    assert label_column_of(two.features) == columns(two)[1] == "fine_label"
    ready = two.remove_columns("image").add_column("pixel_values", [[0.0]] * 12)
    assert names_of(ready) == two.features["fine_label"].names
    assert label_column_of({}) is None
