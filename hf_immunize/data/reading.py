"""The rows of a task as they are read: columns chosen, labels made whole numbers, broken pictures left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from datasets import Dataset

from hf_immunize.data.columns import LabelUse, choose_columns
from hf_immunize.data.corrupt import drop_corrupt
from hf_immunize.data.labels import label_values, why_unlabelled, with_plain_labels
from hf_immunize.data.names import (
    alike,
    are_numbers,
    class_names,
    one_spelling,
    only_one_names,
    renumbered,
    with_numbers,
)
from hf_immunize.data.split_words import split_word
from hf_immunize.errors import InputError

__all__ = ["Reading"]


@dataclass
class Reading:
    """What was asked of the rows of a task, and what is found out about them on the way to it.

    Attributes:
        image_column: as named; from :meth:`choose` on the one that is read.
        label_column: likewise; None where no labels are read.
        labels: what the labels are for.
        skip_corrupt: leave out rows whose picture cannot be read.
        notes: each choice that was made for the user, as a sentence.
    """

    image_column: str | None
    label_column: str | None
    labels: LabelUse
    skip_corrupt: bool
    notes: list[str] = field(default_factory=list)

    def why_unlabelled(self, rows: Dataset) -> str | None:
        """Why a split is not to be measured on, or None."""
        if self.labels == "unused":
            return None
        column = self.label_column
        if column is None:
            column = choose_columns(rows, self.image_column, labels="optional").label
        return why_unlabelled(rows, column, whole_split=True)

    def check_labelled(self, rows: Dataset, split: str, source: str) -> None:
        """Raises ValueError where labels are needed and a split has none."""
        reason = self.why_unlabelled(rows) if self.labels == "needed" else None
        if reason is not None:
            raise InputError(f"The split {split!r} of {source!r} {reason}. Name another split, or the label column.")

    def choose(self, rows: Dataset) -> None:
        """Settles which columns are read, in these rows and in those to measure on."""
        found = choose_columns(rows, self.image_column, self.label_column, labels=self.labels)
        self.image_column, self.label_column = found.image, found.label
        self.notes += found.notes

    def prepared(self, rows: Dataset, role: str) -> Dataset:
        """The rows with pictures that can be read (where that was asked for) and labels that are whole numbers."""
        assert self.image_column is not None, "choose() settles it"
        for column in filter(None, (self.image_column, self.label_column)):
            if column not in rows.features and (column == self.image_column or self.labels == "needed"):
                raise InputError(
                    f"The rows {role} have no column {column!r}; their columns are {', '.join(rows.features)}. Name "
                    "the columns alike in both."
                )
        if self.skip_corrupt:
            whole, dropped = drop_corrupt(rows, self.image_column)
            if dropped:
                self.notes.append(
                    f"left out {len(dropped)} of {len(rows)} pictures {role} that cannot be read ({dropped[0]}…)"
                )
            rows = whole
        if self.label_column is None:
            return rows
        reason = why_unlabelled(rows, self.label_column) if self.labels == "optional" else None
        if reason is not None:
            self.notes.append(f"left the labels out, since the data {role} {reason}".replace(" has ", " have ", 1))
            self.label_column = None
            return rows
        if rows.format["type"] == "custom":
            return rows
        rows, notes = with_plain_labels(rows, self.label_column)
        self.notes += (one for one in notes if one not in self.notes)
        return rows

    def aligned(self, train: Dataset, evaluation: Dataset) -> Dataset:
        """The rows to measure on with the class numbers of the rows to train on."""
        if self.label_column is None or evaluation is train:
            return evaluation
        ours, theirs = class_names(train, self.label_column), class_names(evaluation, self.label_column)
        if ours == theirs:
            return evaluation
        if ours is None or theirs is None:
            if are_numbers(ours or theirs or ()):
                return evaluation
            sides = ("the rows to train on", "those to measure on")
            raise only_one_names(*(sides if ours else sides[::-1]))
        self.notes.append("numbered the classes of the rows to measure on as those of the rows to train on, by name")
        return renumbered(
            evaluation, self.label_column, ours, what="the rows to measure on", other="the rows to train on"
        )

    def one_spelling(self, train: Dataset, evaluation: Dataset) -> tuple[Dataset, Dataset]:
        """Rows to train on and to measure on with one class where both have it in a spelling of their own."""
        column, names = self.label_column, class_names(train, self.label_column)
        if column is None or not names or not alike(names) or class_names(evaluation, column) != names:
            return train, evaluation
        if "custom" in (train.format["type"], evaluation.format["type"]):
            return train, evaluation
        trained, judged = (set(label_values(rows, column)) - {None, -1} for rows in (train, evaluation))
        mapping = one_spelling(names, trained, judged, what="the rows to measure on", other="the rows to train on")
        self.notes += (
            f"took {names[one]!r} of the rows to measure on for {names[other]!r} of those to train on"
            for one, other in enumerate(mapping)
            if one != other
        )
        held = {names[label] for label in trained | {mapping[label] for label in judged}}
        kept = [name for name in names if name in held or name not in alike([name, *held])]
        if len(kept) == len(names):
            return train, evaluation
        numbers = [kept.index(names[one]) if names[one] in kept else -1 for one in mapping]
        changed = with_numbers(train, column, numbers, kept)
        return changed, changed if evaluation is train else with_numbers(evaluation, column, numbers, kept)

    def note_missing_classes(self, rows: Dataset, role: str) -> None:
        """Says where most of the classes are not among the rows of a role, as in the first rows of sorted data."""
        names = class_names(rows, self.label_column)
        if self.label_column is None or not names or rows.format["type"] == "custom":
            return
        there = len({label for label in label_values(rows, self.label_column) if label is not None and label >= 0})
        if 2 * there <= len(names):
            self.notes.append(f"the rows {role} hold {there} of {len(names)} classes")

    def note_unseen_classes(self, trained: Dataset, judged: Dataset) -> None:
        """Says where rows to measure on are of classes that no row to train on has, as in slices of sorted data."""
        if self.label_column is None or "custom" in (trained.format["type"], judged.format["type"]):
            return
        known, names = set(label_values(trained, self.label_column)), class_names(judged, self.label_column)
        missing = (None, -1)
        unseen = [one for one in label_values(judged, self.label_column) if one not in known and one not in missing]
        if unseen:
            which = sorted(set(unseen))
            shown = ", ".join(str(names[one] if names else one) for one in which[:4]) + (
                ", …" if len(which) > 4 else ""
            )
            self.notes.append(
                f"{len(unseen)} of the {len(judged)} rows to measure on are of classes that no row to train on has "
                f"({shown}): no model can know them"
            )

    def note_column_of_splits(self, rows: Dataset) -> None:
        """Says where a column says of each row which split it belongs to, and the rows are divided otherwise."""
        for column, kind in rows.features.items():
            is_text = getattr(kind, "dtype", None) == "string"
            if column.lower() not in ("split", "set", "subset", "partition") or not is_text:
                continue
            found = sorted({str(one) for one in rows.with_format(None)[column]})
            if len(found) > 1 and all(split_word(one) for one in found):
                told = " and ".join(map(repr, found))
                self.notes.append(
                    f"the column {column!r} says {told}, and did not divide the rows: pass each as a split of a "
                    f"DatasetDict (dataset.filter(lambda one: one == {found[0]!r}, input_columns={column!r})) to keep "
                    "them apart"
                )

    def note_alike(self, names: Sequence[str] | None) -> None:
        """Says where classes have names that are hardly two, as a slip of the pen makes them."""
        twins = alike(names or ())
        if twins:
            shown = ", ".join(map(repr, twins[:4])) + (", …" if len(twins) > 4 else "")
            self.notes.append(f"took {shown} for classes of their own, though their names are nearly the same")

    def note_first_label(self, rows: Dataset) -> None:
        """Says where numbers without names do not begin with 0: a head for them has a class that no row has."""
        if self.label_column is None or class_names(rows, self.label_column) or rows.format["type"] == "custom":
            return
        low = min(label_values(rows, self.label_column))
        if low > 0:
            self.notes.append(f"no row has the label 0: the numbers in {self.label_column!r} begin with {low}")
