"""Columns are found by type and by name."""

from __future__ import annotations

import pytest
from datasets import ClassLabel, Dataset, Value
from tiny import picture_dataset

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
    assert columns(renamed.add_column("label", [[0, 1, 1]] * 12)) == ("photo", "species")
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


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["cat", "dog"], "string"),
        ([0, 1], "uint8"),
        ([0.0, 1.0], "float32"),
        ([False, True], "bool"),
        ([None, None], "string"),
    ],
)
@pytest.mark.parametrize("other", [ClassLabel(names=["photo", "sketch"]), Value("int64")])
@pytest.mark.parametrize("name", ["label", "labels"])
def test_a_column_called_label_comes_before_others_whatever_its_type(pictures, name, values, kind, other):
    beside = "domain" if isinstance(other, ClassLabel) else "target"
    data = pictures.remove_columns("label").add_column(beside, [0] * 6 + [1] * 6, feature=other)
    data = data.add_column(name, values * 6, feature=Value(kind))
    found = choose_columns(data)
    assert found.label == name
    assert found.notes == (f"took the column {name!r} for the labels; {beside!r} could be meant too (label_column)",)
    # Model inputs and streams of the same columns are read alike.
    assert label_column_of(data.features, "image") == label_column_of(data.features, "image", data=data) == name


def test_a_column_called_label_that_holds_no_classes_is_passed_over_and_said(pictures):
    data = picture_dataset(60)
    data = data.rename_column("label", "species")
    told = "took the column 'species' for the labels, since 'label' holds no classes (label_column)"
    for odd in ([f"a picture of {k}" for k in range(60)], [k / 7 + 0.01 for k in range(60)], [[0, 1, 1]] * 60):
        found = choose_columns(data.add_column("label", odd))
        assert found.label == "species"
        assert found.notes == (told,)
    # Alone it is taken, and what reads it says what is wrong.
    assert choose_columns(pictures.remove_columns("label").add_column("label", [[0, 1, 1]] * 12)).label == "label"
