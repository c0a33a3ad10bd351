"""Classes are compared by name."""

from __future__ import annotations

import pytest
from datasets import ClassLabel, Dataset
from pictures import labelled

from hf_immunize.data.names import align_labels, alike, renumbered


def test_classes_are_aligned_by_name():
    assert align_labels(["dog", "cat"], ["cat", "dog"]) == [1, 0]
    assert align_labels(["Great_White-Shark"], ["great white shark"]) == [0]
    # Accents apart from their letters, as macOS names folders.
    assert align_labels(["cafe\u0301", "tea"], ["tea", "caf\u00e9"]) == [1, 0]
    # Names that fall together without case are compared as they stand.
    assert align_labels(["A", "a"], ["a", "A"]) == [1, 0]
    assert align_labels(["cat"], ["dog", "cat"], subset_allowed=True) == [1]
    with pytest.raises(
        ValueError, match=r"the data and the model name different classes .only the data: 'cow'; only the"
    ):
        align_labels(["cat", "cow"], ["cat", "dog"])
    with pytest.raises(ValueError, match="only the model: 'dog'"):
        align_labels(["cat"], ["cat", "dog"])
    with pytest.raises(ValueError, match="the data has a class name twice: 'cat'"):
        align_labels(["cat", "cat"], ["cat", "dog"])
    with pytest.raises(ValueError, match="and 4 more"):
        align_labels([str(k) for k in range(9)], ["x"])


def test_names_that_are_hardly_two_are_found():
    assert alike(["cat", "Great Shark", "great_shark", "CAT", "dog"]) == ["cat", "Great Shark", "great_shark", "CAT"]
    assert alike(["cat", "dog"]) == []


def test_a_data_set_is_renumbered_and_its_pictures_stay():
    data = labelled([0, 1, 1, -1], ClassLabel(names=["dog", "cat"]))
    moved = renumbered(data, "label", ["cat", "cow", "dog"])
    assert moved["label"][:] == [2, 0, 0, -1]
    assert moved.features["label"].names == ["cat", "cow", "dog"]
    assert [row["image"].tobytes() for row in moved] == [row["image"].tobytes() for row in data]
    assert renumbered(data, "label", ["dog", "cat"]) is data
    assert renumbered(data.shuffle(seed=1), "label", ["cat", "dog"]).num_rows == 4
    with pytest.raises(ValueError, match="has numbers and no class names"):
        renumbered(Dataset.from_dict({"label": [0]}), "label", ["cat"])
    with pytest.raises(ValueError, match="only the data: 'dog'"):
        renumbered(data, "label", ["cat", "cow"])
