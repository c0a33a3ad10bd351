"""Images as users name them → model inputs: Hub ids, folders of images, `save_to_disk` folders, parquet, data sets."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import ClassLabel, Dataset, DatasetDict, Image, load_dataset, load_from_disk
from datasets.exceptions import DatasetNotFoundError

__all__ = [
    "ImageInputs",
    "as_inputs",
    "check_labels",
    "collate_images",
    "find_columns",
    "load_images",
    "load_train_and_eval",
    "whole_numbers",
]

IMAGE_NAMES = ("image", "img", "images", "picture")
LABEL_NAMES = ("label", "labels", "fine_label", "class", "target")


def load_images(
    name: str,
    split: str | None = None,
    *,
    config: str | None = None,
    token: str | None = None,
) -> Dataset:
    """Loads one split of an image data set.

    Args:
        name: a Hub id (``ylecun/mnist``, with ``@revision`` if wanted), an image folder, a folder of
            ``Dataset.save_to_disk``, a folder of parquet files, or one parquet file.
        split: the split; needed only where there are several and none is called ``train``.
        config: the configuration of a Hub data set that has several.
        token: for private data sets.

    Raises:
        ValueError: nothing there, an unknown split, an empty one.
    """
    loaded = _load(name, config, token)
    return loaded[_choose_split(loaded, split, name)]


def load_train_and_eval(
    name: str,
    split: str | None = None,
    eval_split: str | None = None,
    *,
    config: str | None = None,
    seed: int = 0,
    token: str | None = None,
) -> tuple[Dataset, Dataset, str]:
    """Training and evaluation rows of one data set, and a description of the latter.

    The evaluation split is the one that is named, else ``test`` or ``validation``, else a fifth of the training split,
    drawn by the seed and taken out of it. Arguments and errors are those of :func:`load_images`; one split for both is
    refused too.
    """
    loaded = _load(name, config, token)
    split = _choose_split(loaded, split, name)
    train = loaded[split]
    if eval_split == split:
        raise ValueError(
            f"Split {split!r} of {name!r} would serve both to train on and to evaluate on. Name another one, or none: "
            "a fifth of it is then held out."
        )
    if eval_split is None:
        usual = ("test", "validation", "valid", "val")
        eval_split = next((one for one in usual if one in loaded and one != split), None)
    if eval_split is not None:
        return train, loaded[_choose_split(loaded, eval_split, name)], eval_split
    if len(train) < 10:
        raise ValueError(f"{name!r} has {len(train)} rows and no split to evaluate on. Name one (…_eval_split).")
    parts = train.train_test_split(test_size=0.2, seed=seed)
    return parts["train"], parts["test"], f"a fifth of {split}, drawn by seed {seed}"


def find_columns(
    data: Dataset, image_column: str | None = None, label_column: str | None = None, *, labels_needed: bool = True
) -> tuple[str, str | None]:
    """The image and the label column: as named, else by type, else by usual names.

    Raises:
        ValueError: a named column that is missing, or none to be found.
    """
    features = data.features
    for given in (image_column, label_column):
        if given is not None and given not in features:
            near = difflib.get_close_matches(given, list(features), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"There is no column {given!r}; the columns are {', '.join(features)}.{hint}")
    image = image_column or next((key for key, kind in features.items() if isinstance(kind, Image)), None)
    image = image or next((key for key in (*IMAGE_NAMES, "pixel_values") if key in features), None)
    if image is None:
        raise ValueError(
            f"The data set has no column of images; its columns are {', '.join(features)}. Name it (image_column), or "
            "cast it: dataset.cast_column('path', datasets.Image())."
        )
    label = label_column or next((key for key, kind in features.items() if isinstance(kind, ClassLabel)), None)
    label = label or next((key for key in LABEL_NAMES if key in features), None)
    if label is None and labels_needed:
        raise ValueError(
            f"The data set has no column of labels; its columns are {', '.join(features)}. Name it (label_column)."
        )
    return image, label


class ImageInputs(torch.utils.data.Dataset):
    """A `datasets` data set of images, read as model inputs: ``{"pixel_values": (C, H, W), "labels": int}``.

    Args:
        data: with a column of images, and one of labels unless ``labels_needed`` is false.
        image_processor: of the model; called with a list of images and ``return_tensors="pt"``.
        image_column: found by type and name if not given.
        label_column: likewise.
        labels_needed: False for harmful data whose labels the objective does not use.
        cache: keep the processed images in memory. Only for processors without randomness.
    """

    def __init__(
        self,
        data: Dataset,
        image_processor: Any,
        image_column: str | None = None,
        label_column: str | None = None,
        *,
        labels_needed: bool = True,
        cache: bool = False,
    ) -> None:
        if image_processor is None:
            raise ValueError("Raw images need an image processor. Pass processing_class=AutoImageProcessor.…")
        self.data, self.image_processor = data, image_processor
        self.image_column, self.label_column = find_columns(
            data, image_column, label_column, labels_needed=labels_needed
        )
        self._cache: dict[int, torch.Tensor] | None = {} if cache else None
        self._labels = None if self.label_column is None else list(data.with_format(None)[self.label_column])

    @property
    def column_names(self) -> list[str]:
        return ["pixel_values"] if self._labels is None else ["pixel_values", "labels"]

    @property
    def labels(self) -> list[Any] | None:
        """All labels, without decoding an image."""
        return self._labels

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([int(index)])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        indices = [int(index) for index in indices]
        known = self._cache if self._cache is not None else {}
        missing = [index for index in dict.fromkeys(indices) if index not in known]
        fresh = dict(zip(missing, self._process(missing), strict=True)) if missing else {}
        if self._cache is not None:
            self._cache.update(fresh)
        items = []
        for index in indices:
            item: dict[str, Any] = {"pixel_values": fresh[index] if index in fresh else known[index]}
            if self._labels is not None:
                item["labels"] = self._labels[index]
            items.append(item)
        return items

    def _process(self, indices: list[int]) -> torch.Tensor:
        images = self.data[indices][self.image_column]
        return self.image_processor([_as_image(image) for image in images], return_tensors="pt")["pixel_values"]


def as_inputs(data: Any, image_processor: Any, *, labels_needed: bool = True) -> Any:
    """Wraps a `datasets` data set of raw images; anything that already gives ``pixel_values`` stays as it is."""
    if isinstance(data, (DatasetDict, dict)):
        raise ValueError(f"A data set with the splits {', '.join(data)} was given. Choose one: dataset['train'].")
    if isinstance(data, Dataset) and data.format["type"] != "custom" and "pixel_values" not in data.column_names:
        return ImageInputs(data, image_processor, labels_needed=labels_needed)
    return data


def collate_images(samples: list[Any]) -> dict[str, torch.Tensor]:
    """Stacks samples: mappings with ``pixel_values`` (and ``labels``), or pairs of image and label.

    Raises:
        ValueError: images of different shapes, or samples without images.
    """
    rows = [_as_mapping(sample) for sample in samples]
    images = [torch.as_tensor(row["pixel_values"]) for row in rows]
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:
        raise ValueError(f"Images of different shapes in one batch: {sorted(shapes)}. Resize them to one size.")
    batch = {"pixel_values": torch.stack(images)}
    for key in rows[0]:
        if key in ("labels", "label"):
            batch["labels"] = torch.as_tensor([int(row[key]) for row in rows])
        elif key != "pixel_values" and isinstance(rows[0][key], torch.Tensor):
            batch[key] = torch.stack([row[key] for row in rows])
    return batch


def whole_numbers(labels: Sequence[Any] | torch.Tensor, name: str) -> torch.Tensor:
    """Labels as a tensor; ValueError where they are no whole numbers, one an image."""
    try:
        values = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):
        odd = next((one for one in labels if not isinstance(one, int)), labels)
        raise ValueError(
            f"The labels of the {name} data must be whole numbers, one an image, got {odd!r}. Name another column "
            "(label_column), or number the classes: dataset.class_encode_column('label')."
        ) from None
    if values.is_floating_point() or values.ndim != 1:
        raise ValueError(f"The labels of the {name} data must be whole numbers, one an image, got {values.dtype}.")
    return values


def check_labels(labels: Sequence[Any] | torch.Tensor, n_classes: int, name: str) -> None:
    """Raises ValueError where a label lies outside 0 … n_classes − 1 (or is not a whole number)."""
    values = whole_numbers(labels, name)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= n_classes:
        raise ValueError(
            f"The {name} labels run from {low} to {high}, but the model's head has {n_classes} classes (0 to "
            f"{n_classes - 1}). Load the model with num_labels={high + 1}, or map the labels."
        )


def _as_mapping(sample: Any) -> dict[str, Any]:
    if isinstance(sample, (tuple, list)) and len(sample) == 2:
        return {"pixel_values": sample[0], "labels": sample[1]}
    if hasattr(sample, "keys") and "pixel_values" in sample:
        return dict(sample)
    found = ", ".join(sample) if hasattr(sample, "keys") else type(sample).__name__
    raise ValueError(
        f"A sample must hold 'pixel_values' (and 'labels'), or be a pair (image, label); got {found}. For raw images "
        "pass processing_class=image_processor."
    )


def _as_image(image: Any) -> Any:
    # Palettes, alpha and 16-bit greys become plain RGB; a single channel stays one for the processor to judge.
    if hasattr(image, "mode") and image.mode not in ("RGB", "L"):
        return image.convert("RGB")
    return image


def _load(name: str, config: str | None, token: str | None) -> DatasetDict:
    path = Path(name).expanduser()
    if path.exists():
        loaded = _load_local(path)
    elif name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ValueError(f"There is no data set at {name!r}. Give a Hub id, or the path of an existing folder.")
    else:
        loaded = _load_hub(name, config, token)
    return loaded if isinstance(loaded, DatasetDict) else DatasetDict({str(loaded.split or "train"): loaded})


def _load_local(path: Path) -> Dataset | DatasetDict:
    if path.is_file() and path.suffix != ".parquet":
        raise ValueError(f"{str(path)!r} is a file of type {path.suffix!r}; a parquet file or a folder was expected.")
    try:
        if path.is_file():
            return load_dataset("parquet", data_files=str(path))
        if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            return load_from_disk(str(path))
        if any(path.glob("**/*.parquet")):
            return load_dataset("parquet", data_dir=str(path))
    except (IndexError, ValueError) as error:
        # What `datasets` raises for a split without rows, the first from save_to_disk, the second from parquet.
        if isinstance(error, ValueError) and "corresponds to no data" not in str(error):
            raise
        raise ValueError(f"{str(path)!r} holds an empty split. Save it again with rows, or without it.") from error
    try:
        return load_dataset("imagefolder", data_dir=str(path))
    except Exception as error:
        raise ValueError(
            f"No images were found in {str(path)!r}. Expected folders of images by class (class_a/1.png), parquet "
            "files, or a folder written by Dataset.save_to_disk."
        ) from error


def _load_hub(name: str, config: str | None, token: str | None) -> Dataset | DatasetDict:
    repo, _, revision = name.partition("@")
    try:
        return load_dataset(repo, config, revision=revision or None, token=token)
    except DatasetNotFoundError as error:
        raise ValueError(
            f"The data set {name!r} is not on the Hub, or it is private or gated and you are not logged in. Check its "
            "name, or run `hf auth login`."
        ) from error
    except ConnectionError as error:
        raise ConnectionError(
            f"The Hub could not be reached for the data set {name!r}. Check the network, or give a local folder."
        ) from error


def _choose_split(loaded: DatasetDict, split: str | None, name: str) -> str:
    chosen = split or ("train" if "train" in loaded else next(iter(loaded)) if len(loaded) == 1 else None)
    if chosen not in loaded:
        asked = "none was named" if chosen is None else f"not {chosen!r}"
        raise ValueError(f"{name!r} has the splits {', '.join(loaded)}; {asked}. Name one of them.")
    if len(loaded[chosen]) == 0:
        raise ValueError(f"Split {chosen!r} of {name!r} is empty. Choose another split.")
    return chosen
