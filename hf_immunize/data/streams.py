"""Streams of raw pictures (`datasets.IterableDataset`): read as model inputs as they come, or some rows drawn."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from datasets import ClassLabel, Dataset, IterableDataset
from datasets import Image as ImageFeature
from datasets.distributed import split_dataset_by_node

from hf_immunize.data.columns import LabelUse, choose_columns
from hf_immunize.data.images import ImageInputs
from hf_immunize.data.labels import label_values, numbers_as_words, other_word
from hf_immunize.data.names import align_labels
from hf_immunize.errors import InputError

__all__ = [
    "BUFFER_SIZE",
    "DRAWN",
    "DrawnSplits",
    "StreamedInputs",
    "drawn_rows",
    "first_samples",
    "head",
    "is_stream",
    "resolved",
]

#: Rows among which a stream is shuffled.
BUFFER_SIZE = 1_000
#: Rows of a stream that are measured on, and that attackers are fitted on.
DRAWN = 2_000
# Rows that columns and labels are checked on before anything runs.
_LOOKED_AT = 32
# Rows that are made model inputs at once.
_AT_ONCE = 32


def is_stream(data: Any) -> bool:
    """Whether data come one after another, without a length: a stream of `datasets` or of `torch`."""
    return isinstance(data, (IterableDataset, torch.utils.data.IterableDataset))


def first_samples(data: Any, n: int) -> list[Any]:
    """The first rows of a data set of any kind."""
    return list(itertools.islice(iter(data), n)) if is_stream(data) else [data[i] for i in range(min(n, len(data)))]


def head(stream: IterableDataset) -> Dataset:
    """The first rows of a stream, to check columns and labels on.

    Raises:
        InputError: a stream without rows.
    """
    rows = list(stream.take(_LOOKED_AT))
    if not rows:
        raise InputError("The stream is empty. Check its split and its filters.")
    return Dataset.from_list(rows, features=stream.features)


def resolved(stream: IterableDataset) -> IterableDataset:
    """The stream with the types of its columns, which are found out by the first rows where nobody said them."""
    return stream if stream.features is not None else stream.cast(head(stream).features)


def drawn_rows(stream: Any, n: int, *, seed: int = 0, columns: Sequence[str | None] = ()) -> Any:
    """At most so many rows of a stream as a data set in memory.

    Args:
        stream: of `datasets`, which is shuffled with a buffer first; one of `torch` gives its first samples as a list.
        n: how many.
        seed: of the shuffling.
        columns: those that are kept; all if not given.

    Raises:
        InputError: a stream without rows, or fewer than one asked for.
    """
    if n < 1:
        raise InputError(f"At least one row has to be taken of a stream, got a maximum of {n}.")
    if not isinstance(stream, IterableDataset):
        return first_samples(stream, n)
    plain = _as_files(resolved(stream), [one for one in columns if one] or None)
    rows = list(plain.shuffle(seed=seed, buffer_size=BUFFER_SIZE).take(n))
    if not rows:
        raise InputError("The stream is empty. Check its split and its filters.")
    data = Dataset.from_list(rows, features=plain.features)
    for column, kind in (resolved(stream).features or {}).items():
        if column in data.features and isinstance(kind, ImageFeature):
            data = data.cast_column(column, kind)
    return data


class DrawnSplits(Mapping[str, Dataset]):
    """Splits of streams as data sets in memory: the first rows of each, drawn when the split is looked at.

    Args:
        splits: streams by name; a data set among them stays as it is.
        most: rows of a split, by name.
        otherwise: rows of any other split.
        seed: of the shuffling.
        notes: gets a sentence for each split that was drawn.
    """

    def __init__(
        self, splits: Mapping[str, Any], most: Mapping[str, int], otherwise: int | None, seed: int, notes: list[str]
    ) -> None:
        self._splits, self._most, self._seed, self._notes = splits, most, seed, notes
        self._otherwise = otherwise or DRAWN
        self._drawn: dict[str, Dataset] = {}

    def __getitem__(self, name: str) -> Dataset:
        if not is_stream(self._splits[name]):
            return self._splits[name]
        if name not in self._drawn:
            most = self._most.get(name, self._otherwise)
            rows = self._drawn[name] = drawn_rows(self._splits[name], most, seed=self._seed)
            self._notes.append(
                f"took {len(rows)} rows of the stream {name!r}, shuffled with a buffer of {BUFFER_SIZE} by seed "
                f"{self._seed}"
            )
        return self._drawn[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._splits)

    def __len__(self) -> int:
        return len(self._splits)


class StreamedInputs(torch.utils.data.IterableDataset):
    """A stream of raw pictures, read as model inputs: ``{"pixel_values": (C, H, W), "labels": int}``.

    Columns, class names and the form of the labels are settled by the first rows; each label is read as it comes.
    Pictures and labels are read as :class:`hf_immunize.ImageInputs` reads them.

    Args:
        data: with a column of pictures, and one of labels unless ``labels`` says that they are not needed.
        image_processor: of the model.
        image_column: found by type and name if not given.
        label_column: likewise.
        labels: ``"needed"``, ``"optional"`` (read where the first rows have them) or ``"unused"`` (not read).
        n_channels: of the pictures that the model reads; as the image processor says if not given.
        skip_corrupt: leave out pictures that cannot be read as they come.
        name: of the data, for messages (``"primary"``).

    Attributes:
        classes: names of the classes, where the data name them.
        label_column: None where no labels are read.
        notes: each choice that was made for the user, as a sentence.

    Raises:
        ValueError: no image processor, no such column, labels that are needed and no labels, an empty stream, words in
            place of labels.
    """

    def __init__(
        self,
        data: IterableDataset,
        image_processor: Callable[..., Any] | None,
        image_column: str | None = None,
        label_column: str | None = None,
        *,
        labels: LabelUse = "needed",
        n_channels: int | None = None,
        skip_corrupt: bool = False,
        name: str = "",
    ) -> None:
        data = resolved(data)
        columns = choose_columns(data, image_column, label_column, labels=labels)
        kept = [one for one in (columns.image, columns.label) if one is not None]
        self.data = _as_files(data, kept)
        self._options: dict[str, Any] = {
            "image_processor": image_processor,
            "image_column": columns.image,
            "n_channels": n_channels,
            "skip_corrupt": skip_corrupt,
            "name": name,
        }
        first = head(self.data)
        looked_at = ImageInputs(first, label_column=columns.label, labels=labels, **self._options)
        self.label_column, self.classes = looked_at.label_column, looked_at.classes
        words = [] if self.label_column is None else label_values(first, self.label_column)
        # Settled here for all rows: each batch by itself would number the same word otherwise.
        self._width = numbers_as_words(words)
        named = self.label_column is not None and isinstance(data.features[self.label_column], ClassLabel)
        if not named and (self.classes is not None or (self._width is None and any(map(_is_word, words)))):
            raise InputError(
                f"The labels of the {name or 'streamed'} data are words, whose numbers a stream does not say. "
                + _how_to_name(self.label_column)
            )
        self.notes = (*columns.notes, *looked_at.notes)
        self._numbers: list[int] | None = None

    def with_classes(self, names: Sequence[str], *, what: str = "the data", other: str = "the model") -> StreamedInputs:
        """As :meth:`hf_immunize.ImageInputs.with_classes`."""
        if self.classes is None:
            raise InputError(f"{what} have numbers and no class names, so that they cannot be brought into an order.")
        twin = copy.copy(self)
        twin._numbers = align_labels(self.classes, names, data=what, other=other, subset_allowed=True)
        twin.classes = list(names)
        twin.notes = (*self.notes, f"the labels of {what} are numbered in the order of {other}'s classes")
        return twin

    def drawn(self, n: int, seed: int = 0) -> ImageInputs:
        """At most so many rows, in memory, with the same columns and classes."""
        options = self._options | {"label_column": self.label_column}
        rows = drawn_rows(self.data, n, seed=seed)
        if self.label_column is not None:
            self._check_words(label_values(rows, self.label_column))
        found = ImageInputs(rows, labels="needed" if self.label_column else "unused", **options)
        return found if self._numbers is None or self.classes is None else found.with_classes(self.classes)

    def one_pass(
        self, number: int = 0, *, seed: int | None = None, rank: int = 0, world: int = 1, buffer_size: int = BUFFER_SIZE
    ) -> Iterator[dict[str, Any]]:
        """One pass over the share of the stream that one of several readers has.

        Args:
            number: of the pass; each is shuffled otherwise.
            seed: of the shuffling; None for the order in which the rows come.
            rank: of the reader.
            world: how many readers there are.
            buffer_size: rows among which is shuffled.
        """
        stream = self.data if seed is None else self.data.shuffle(seed=seed, buffer_size=buffer_size)
        share = split_dataset_by_node(stream, rank=rank, world_size=world)
        share.set_epoch(number)
        for batch in share.iter(batch_size=_AT_ONCE):
            yield from self._items(batch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self.one_pass()

    def _items(self, batch: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
        if self.label_column is not None:
            self._check_words(batch[self.label_column])
        rows = Dataset.from_dict(dict(batch), features=self.data.features)
        use: LabelUse = "needed" if self.label_column else "unused"
        inputs = ImageInputs(rows, label_column=self.label_column, labels=use, **self._options)
        if inputs.labels is not None and self._numbers is not None:
            inputs.labels = [self._numbers[label] for label in inputs.labels]
        return inputs.__getitems__(range(len(inputs)))

    def _check_words(self, words: Sequence[Any]) -> None:
        # A word that is missing is said as any other label that is.
        there = [one for one in words if isinstance(one, str) and one.strip()]
        odd = None if self._width is None else other_word(there, self._width)
        if odd is not None:
            raise InputError(
                f"The labels of the {self._options['name'] or 'streamed'} data are words that are numbers in the first "
                f"{_LOOKED_AT} rows, by which classes are numbered; {odd!r}, further on, is no such number. "
                + _how_to_name(self.label_column)
            )


def _how_to_name(column: str | None) -> str:
    return f"Name the classes: stream.cast_column({column!r}, datasets.ClassLabel(names=[…]))."


def _is_word(label: Any) -> bool:
    return isinstance(label, str)


def _as_files(stream: IterableDataset, columns: list[str] | None = None) -> IterableDataset:
    """The columns that are read, with pictures as files: nothing is decoded before it leaves the shuffling buffer."""
    stream = stream.with_format(None)
    stream = stream if columns is None else stream.select_columns(columns)
    for column, kind in (stream.features or {}).items():
        if isinstance(kind, ImageFeature):
            stream = stream.cast_column(column, ImageFeature(mode=kind.mode, decode=False))
    return stream
