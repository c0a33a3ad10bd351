"""Which split a name means, in folders, files and mappings of splits alike."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["evaluation_names", "names_of_split", "one_split_word", "split_word"]

#: Of words for one split the first is taken where several are there.
_WORDS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "eval", "evaluation"),
    "validation": ("validation", "valid", "val", "dev"),
}
_SPLITS = {word: split for split, words in _WORDS.items() for word in words}
#: Words beside that of a split in a name: Kaggle's ``training_set``, ``seg_train``, ``test_images``.
_BESIDE = frozenset(("set", "seg", "split", "data", "dataset", "image", "images", "img", "imgs"))


def split_word(name: str) -> str | None:
    """The split that a name stands for (``"val"`` → ``"validation"``), None for any other name."""
    words = [word for one in re.split(r"[-_. ]+", name.lower()) if (word := _plain(one)) and word not in _BESIDE]
    return _SPLITS.get(words[0]) if len(words) == 1 else None


def one_split_word(name: str) -> str | None:
    """The split of which a name has a word among others (``cifar10-train-00``), None where it has words of several."""
    found = {split for word in re.split(r"[-_. ]+", name) if (split := split_word(word))}
    return found.pop() if len(found) == 1 else None


def names_of_split(names: Iterable[str], split: str) -> list[str]:
    """Those of some names that mean a split, the most usual first."""
    words = _WORDS[split]
    found = [name for name in names if split_word(name) == split]
    return sorted(found, key=lambda name: words.index(name) if name in words else len(words))


def evaluation_names(names: Iterable[str]) -> list[str]:
    """Those of some names that mean a split to measure on, ``test`` and its kin before ``validation`` and its own."""
    names = list(names)
    return names_of_split(names, "test") + names_of_split(names, "validation")


def _plain(word: str) -> str:
    # train2017, test_1; trainset.
    word = word.rstrip("0123456789")
    return word.removesuffix("set") or word
