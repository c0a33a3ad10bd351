"""Sources of rows that show which of their methods was asked."""

from __future__ import annotations


class AtOnce(list):
    """Gives rows one by one otherwise than many at once, so that one sees which was asked."""

    def __getitems__(self, indices):
        return [f"{self[index]}{place}" for place, index in enumerate(indices)]


class OneByOne(AtOnce):
    def __getitem__(self, index):
        return super().__getitem__(index).upper()


class Wrapper:
    def __init__(self, source):
        self.source = source

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        return self.source[index].upper()

    def __getattr__(self, name):
        return getattr(self.source, name)
