"""Image data sets as users name them: Hub ids, folders of images or of `save_to_disk`, parquet; splits and columns."""

from __future__ import annotations

import difflib
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Image, load_dataset, load_from_disk
from datasets.exceptions import DatasetNotFoundError

from hf_immunize.errors import HubConnectionError, InputError

__all__ = ["find_columns", "load_images", "load_train_and_eval"]


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
        raise InputError(
            f"Split {split!r} of {name!r} would serve both to train on and to evaluate on. Name another one, or none: "
            "a fifth of it is then held out."
        )
    if eval_split is None:
        usual = ("test", "validation", "valid", "val")
        eval_split = next((one for one in usual if one in loaded and one != split), None)
    if eval_split is not None:
        return train, loaded[_choose_split(loaded, eval_split, name)], eval_split
    if len(train) < 10:
        raise InputError(f"{name!r} has {len(train)} rows and no split to evaluate on. Name one (…_eval_split).")
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
            raise InputError(f"There is no column {given!r}; the columns are {', '.join(features)}.{hint}")
    image = image_column or next((key for key, kind in features.items() if isinstance(kind, Image)), None)
    image = image or next((key for key in (*IMAGE_NAMES, "pixel_values") if key in features), None)
    if image is None:
        raise InputError(
            f"The data set has no column of images; its columns are {', '.join(features)}. Name it (image_column), or "
            "cast it: dataset.cast_column('path', datasets.Image())."
        )
    label = label_column or next((key for key, kind in features.items() if isinstance(kind, ClassLabel)), None)
    label = label or next((key for key in LABEL_NAMES if key in features), None)
    if label is None and labels_needed:
        raise InputError(
            f"The data set has no column of labels; its columns are {', '.join(features)}. Name it (label_column)."
        )
    return image, label


def _load(name: str, config: str | None, token: str | None) -> DatasetDict:
    path = Path(name).expanduser()
    if path.exists():
        loaded = _load_local(path)
    elif name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"There is no data set at {name!r}. Give a Hub id, or the path of an existing folder.")
    else:
        loaded = _load_hub(name, config, token)
    return loaded if isinstance(loaded, DatasetDict) else DatasetDict({str(loaded.split or "train"): loaded})


def _load_local(path: Path) -> Dataset | DatasetDict:
    if path.is_file() and path.suffix != ".parquet":
        raise InputError(f"{str(path)!r} is a file of type {path.suffix!r}; a parquet file or a folder was expected.")
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
        raise InputError(f"{str(path)!r} holds an empty split. Save it again with rows, or without it.") from error
    try:
        return load_dataset("imagefolder", data_dir=str(path))
    except Exception as error:
        raise InputError(
            f"No images were found in {str(path)!r}. Expected folders of images by class (class_a/1.png), parquet "
            "files, or a folder written by Dataset.save_to_disk."
        ) from error


def _load_hub(name: str, config: str | None, token: str | None) -> Dataset | DatasetDict:
    repo, _, revision = name.partition("@")
    try:
        return load_dataset(repo, config, revision=revision or None, token=token)
    except DatasetNotFoundError as error:
        raise InputError(
            f"The data set {name!r} is not on the Hub, or it is private or gated and you are not logged in. Check its "
            "name, or run `hf auth login`."
        ) from error
    except ConnectionError as error:
        raise HubConnectionError(
            f"The Hub could not be reached for the data set {name!r}. Check the network, or give a local folder."
        ) from error


def _choose_split(loaded: DatasetDict, split: str | None, name: str) -> str:
    chosen = split or ("train" if "train" in loaded else next(iter(loaded)) if len(loaded) == 1 else None)
    if chosen not in loaded:
        asked = "none was named" if chosen is None else f"not {chosen!r}"
        raise InputError(f"{name!r} has the splits {', '.join(loaded)}; {asked}. Name one of them.")
    if len(loaded[chosen]) == 0:
        raise InputError(f"Split {chosen!r} of {name!r} is empty. Choose another split.")
    return chosen
