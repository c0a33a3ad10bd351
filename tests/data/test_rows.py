"""Rows come as ``__getitem__`` gives them, whoever asks for many at once."""

from __future__ import annotations

from row_sources import AtOnce, OneByOne, Wrapper
from torch.utils.data import DataLoader, Subset

from hf_immunize.data.rows import AsWritten, read_rows


def test_many_at_once_are_asked_for_where_they_are_what_single_ones_are():
    assert read_rows(AtOnce("abc"), [1, 2]) == ["b0", "c1"]
    assert read_rows(OneByOne("abc"), [1, 2]) == ["B", "C"]
    assert read_rows(Wrapper(AtOnce("abc")), [1, 2]) == ["B", "C"]
    assert read_rows([3, 4, 5], [2, 0]) == [5, 3]


def test_a_subset_passes_by_nothing_either():
    assert read_rows(Subset(AtOnce("abcd"), [1, 3]), [1, 0]) == ["d0", "b1"]
    assert read_rows(Subset(Subset(OneByOne("abcd"), [1, 3]), [1]), [0]) == ["D"]


def test_a_loader_reads_them_so():
    for source, found in (
        (AtOnce("abc"), ["a0", "b1", "c0"]),
        (OneByOne("abc"), ["A", "B", "C"]),
        (Wrapper(AtOnce("abc")), ["A", "B", "C"]),
    ):
        loader = DataLoader(AsWritten(source), batch_size=2, collate_fn=list)
        assert [row for batch in loader for row in batch] == found
    assert AsWritten(OneByOne("abc"))[2] == "C"
