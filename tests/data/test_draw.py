from __future__ import annotations

import numpy as np
import pytest

from hf_immunize.data.draw import at_most, drawn_numbers, with_each_class


def test_numbers_are_drawn_once_each_ascending_and_by_the_seed():
    found = drawn_numbers(1_000, 100, seed=3).tolist()
    assert len(set(found)) == 100
    assert found == sorted(found)
    assert found == drawn_numbers(1_000, 100, seed=3).tolist()
    assert found != drawn_numbers(1_000, 100, seed=4).tolist()
    # From all over, and not the first of them.
    assert found[0] < 100 < 900 < found[-1]
    assert drawn_numbers(5, 100).tolist() == [0, 1, 2, 3, 4]


def test_where_there_are_no_more_the_data_set_itself_is_taken():
    data = [10 * number for number in range(50)]
    assert at_most(data, None) is data
    assert at_most(data, 50) is data
    few = at_most(data, 7, seed=2)
    assert [few[index] for index in range(len(few))] == [10 * one for one in drawn_numbers(50, 7, seed=2)]


@pytest.mark.parametrize("most", [0, -1, -6])
def test_fewer_than_one_row_is_no_draw(most):
    with pytest.raises(ValueError, match=f"At most {most} rows were asked for"):
        at_most(range(10), most)


def test_a_draw_with_labels_keeps_a_row_of_each_class():
    labels = [0] * 90 + [1, None, -1] + [2] * 7
    for seed in range(20):
        found = drawn_numbers(100, 5, seed, labels)
        assert len(set(found.tolist())) == 5
        assert {0, 1, 2} <= {labels[row] for row in found}
        assert {labels[row] for row in at_most(list(range(100)), 5, seed, labels)} >= {0, 1, 2}
    # Nothing is exchanged where nothing is lost, and no class is lost for another one.
    even = [row % 2 for row in range(100)]
    assert drawn_numbers(100, 60, 3, even).tolist() == drawn_numbers(100, 60, 3).tolist()
    kept, rest = with_each_class(np.array([0, 1]), np.array([2, 3]), ["a", "b", "c", "a"])
    assert (kept.tolist(), rest.tolist()) == ([0, 1], [2, 3])
    kept, rest = with_each_class(np.array([0, 3]), np.array([2, 1]), ["a", "b", "c", "a"])
    assert (kept.tolist(), rest.tolist()) == ([0, 2], [3, 1])
