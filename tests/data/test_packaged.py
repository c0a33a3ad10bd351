"""Images out of a package, and the tasks made of them."""

from __future__ import annotations

import numpy as np
import pytest
from packages import needs_images

from hf_immunize.data.packaged import digits, images_dataset, mnist, rotated, split_by_class


def numbered(n=40):
    """Rows that can be told apart: the picture of row k has brightness k, its class is k modulo 4."""
    pixels = np.repeat(np.arange(n, dtype=np.uint8), 16).reshape(n, 4, 4)
    return images_dataset(pixels, np.arange(n) % 4, ["zero", "one", "two", "three"])


def rows_of(data):
    return [image.getpixel((0, 0)) for image in data["image"]]


def test_images_of_an_array_become_a_data_set():
    data = numbered(6)
    assert rows_of(data) == list(range(6))
    assert data["label"][:] == [0, 1, 2, 3, 0, 1]
    assert data.features["label"].names == ["zero", "one", "two", "three"]
    colour = images_dataset(np.full((2, 4, 4, 3), 7, np.uint8), [0, 0], ["only"])
    assert colour[1]["image"].mode == "RGB"


def test_a_split_by_class_numbers_the_labels_anew_and_shares_no_row():
    train, evaluation = split_by_class(numbered(), (3, 1), 12, seed=0)
    assert (len(train), len(evaluation)) == (12, 8)
    kept = rows_of(train) + rows_of(evaluation)
    assert sorted(kept) == [row for row in range(40) if row % 4 in (1, 3)]
    for part in (train, evaluation):
        assert part.features["label"].names == ["three", "one"]
        assert part["label"][:] == [{3: 0, 1: 1}[row % 4] for row in rows_of(part)]
    assert rows_of(train) != sorted(rows_of(train))
    again, other = (split_by_class(numbered(), (3, 1), 12, seed=seed)[0] for seed in (0, 1))
    assert rows_of(again) == rows_of(train)
    assert rows_of(other) != rows_of(train)
    with pytest.raises(ValueError, match=r"20 images of the classes .* none is left beside 20"):
        split_by_class(numbered(), (3, 1), 20, seed=0)


@needs_images
def test_the_images_are_the_digits():
    data = mnist()
    assert len(data) == 5000
    assert np.bincount(data["label"][:]).tolist() == [500] * 10
    assert data[0]["image"].size == (28, 28)
    assert data.features["label"].names == [str(digit) for digit in range(10)]
    # A one has fewer bright pixels than a zero.
    labels = np.array(data["label"][:])
    first = {digit: int(np.flatnonzero(labels == digit)[0]) for digit in (0, 1)}
    ink = {digit: np.asarray(data[row]["image"]).mean() for digit, row in first.items()}
    assert ink[1] < ink[0]


def test_turned_images_say_by_how_many_quarter_turns():
    pixels = np.zeros((40, 4, 4), np.uint8)
    pixels[:, 0, 0] = 255
    data = rotated(images_dataset(pixels, [0] * 40, ["dot"]), seed=1)
    # The bright corner goes around against the clock.
    corners = [(0, 0), (3, 0), (3, 3), (0, 3)]
    assert [corners[label] for label in data["label"]] == [
        tuple(int(at) for at in np.argwhere(np.asarray(image))[0]) for image in data["image"]
    ]
    assert set(data["label"]) == {0, 1, 2, 3}
    assert data.features["label"].names == ["0°", "90°", "180°", "270°"]
    again = rotated(images_dataset(pixels, [0] * 40, ["dot"]), seed=1)
    assert list(again["label"]) == list(data["label"])


@needs_images
def test_digits_are_a_task_whose_halves_share_no_row():
    task, turned = digits(range(5), seed=0), digits(range(5), seed=0, turned=True)
    assert (len(task.train), len(task.evaluation)) == (2_000, 500)
    assert task.classes == ["0", "1", "2", "3", "4"]
    assert turned.classes == ["0°", "90°", "180°", "270°"]
    assert turned.name.endswith("rotated")
    assert "drawn by seed 0" in task.split
