"""What no attack is made on is refused with what to do."""

from __future__ import annotations

import pytest
import torch
from tiny import Images, TinyNet

from hf_immunize.attacks.checks import check_classes, check_finite, check_labelled, check_primary, check_weights


def test_data_without_rows_or_labels_are_refused():
    check_labelled(Images(4), "harmful train")
    with pytest.raises(ValueError, match="harmful train data are empty"):
        check_labelled([], "harmful train")
    with pytest.raises(ValueError, match="harmful test images have no labels"):
        check_labelled([{"pixel_values": torch.zeros(3, 8, 8)}], "harmful test")


def test_primary_labels_have_to_fit_the_models_own_head():
    models = [TinyNet().eval()]
    check_primary(models, Images(6))
    with pytest.raises(ValueError, match="primary labels run from"):
        check_primary(models, [row | {"labels": torch.tensor(7)} for row in (Images(6)[index] for index in range(6))])


def test_weights_and_features_have_to_be_finite():
    model = TinyNet()
    check_weights("control", model)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = torch.nan
    with pytest.raises(ValueError, match="of the control model holds NaN or infinite"):
        check_weights("control", model)
    rows = torch.ones(3, 2)
    check_finite("control", {"train": rows})
    rows[1, 0] = torch.inf
    with pytest.raises(ValueError, match="1 of 3 train feature rows of the control model"):
        check_finite("control", {"train": rows})


def test_classes_are_counted_where_both_splits_have_them():
    assert check_classes(torch.tensor([0, 1, 3]), torch.tensor([1])) == 4
    for train, test, message in (
        ([1, 1], [1], "two classes or more"),
        ([0, 1], [-1], "counted from 0"),
        ([0, 1], [0, 2], r"test rows have the classes \[2\]"),
    ):
        with pytest.raises(ValueError, match=message):
            check_classes(torch.tensor(train), torch.tensor(test))


def test_numbers_far_apart_are_no_numbers_of_classes():
    few = torch.tensor([0, 1_000, 1_999])
    assert check_classes(few, few) == 2_000
    many = torch.arange(0, 6_000, 3)
    assert check_classes(many, many) == 5_998
    with pytest.raises(ValueError, match=r"run to 200,000, and 3 classes occur.*class_encode_column"):
        check_classes(few * 100 + torch.tensor([0, 0, 100]), few[:1])
