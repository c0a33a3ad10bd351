"""Rows come as ``__getitem__`` gives them, whoever asks for many at once."""

from __future__ import annotations

from torch.utils.data import DataLoader, Dataset, Subset

from hf_immunize.data.rows import AsWritten, read_rows


class Numbers(Dataset):
    """Gives rows one by one otherwise than many at once, so that one sees which was asked."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return f"one {index}"

    def __getitems__(self, indices):
        return [f"many {index}" for index in indices]


class Own(Numbers):
    def __getitem__(self, index):
        return f"own {index}"


class HandsOn:
    def __init__(self, inner):
        self.inner = inner

    def __len__(self):
        return len(self.inner)

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __getitem__(self, index):
        return f"wrapped {index}"


def test_many_at_once_are_asked_for_where_they_are_what_single_ones_are():
    assert read_rows(Numbers(), [1, 2]) == ["many 1", "many 2"]
    assert read_rows(Own(), [1, 2]) == ["own 1", "own 2"]
    assert read_rows(HandsOn(Numbers()), [1, 2]) == ["wrapped 1", "wrapped 2"]
    assert read_rows([3, 4, 5], [2, 0]) == [5, 3]


def test_a_subset_passes_by_nothing_either():
    assert read_rows(Subset(Numbers(), [4, 6]), [1, 0]) == ["many 6", "many 4"]
    assert read_rows(Subset(Subset(Own(), [4, 6]), [1]), [0]) == ["own 6"]


def test_a_loader_reads_them_so():
    for source, word in ((Numbers(), "many"), (Own(), "own"), (HandsOn(Numbers()), "wrapped")):
        loader = DataLoader(AsWritten(source), batch_size=4, collate_fn=list)
        assert [row for batch in loader for row in batch] == [f"{word} {index}" for index in range(10)]
    assert AsWritten(Own())[3] == "own 3"
