"""Raw pictures → model inputs: a `datasets` data set, an image processor, and the columns between them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image

from hf_immunize.data.columns import LabelUse, choose_columns
from hf_immunize.data.corrupt import drop_corrupt
from hf_immunize.data.labels import Labels, label_values, plain_label, read_labels, why_unlabelled
from hf_immunize.data.names import align_labels
from hf_immunize.data.preprocessing import as_numbers, channels_of, in_mode, to_channels
from hf_immunize.errors import InputError, InputTypeError

__all__ = ["ImageInputs", "undecoded"]

#: Decoded pictures of this many pixels in all are turned into tensors before the next is decoded.
PIXELS_AT_ONCE = 4_000_000


class ImageInputs(torch.utils.data.Dataset):
    """A `datasets` data set of pictures, read as model inputs: ``{"pixel_values": (C, H, W), "labels": int}``.

    Every picture goes through :func:`hf_immunize.data.preprocessing.to_channels`, whatever its mode, and only then to
    the image processor. A transform of the data set (``set_transform``) that leaves pictures is run first.

    Args:
        data: with a column of pictures, and one of labels unless ``labels`` says that they are not needed.
        image_processor: of the model; called with a list of images and ``return_tensors="pt"``.
        image_column: found by type and name if not given.
        label_column: likewise.
        labels: ``"needed"``, ``"optional"`` (read where they can be) or ``"unused"`` (not read).
        labels_needed: False stands for ``labels="optional"``.
        n_channels: of the pictures that the model reads; as the image processor says if not given.
        cache: keep the processed images in memory. Only where they come out alike each time.
        skip_corrupt: leave out rows whose picture cannot be read (each is read once for it); ``dropped`` counts them.
        name: of the data, for messages (``"primary"``).

    Attributes:
        data: the rows.
        image_column: of the pictures.
        label_column: of the labels; None where none are read.
        labels: all labels as whole numbers, without decoding a picture; None where none are read.
        classes: names of the classes, where the data name them.
        notes: each choice that was made for the user, as a sentence.
        dropped: a line for each row that was left out.

    Raises:
        ValueError: no image processor, no such column, labels that are needed and no labels, an empty data set.
    """

    def __init__(
        self,
        data: Dataset,
        image_processor: Callable[..., Any] | None,
        image_column: str | None = None,
        label_column: str | None = None,
        *,
        labels: LabelUse = "needed",
        labels_needed: bool = True,
        n_channels: int | None = None,
        cache: bool = False,
        skip_corrupt: bool = False,
        name: str = "",
    ) -> None:
        if image_processor is None:
            raise InputError(
                "Raw images need an image processor. Pass processing_class=AutoImageProcessor.from_pretrained(…), or "
                "hf_immunize.data.preprocessing.TimmImageProcessor.from_model(model) for a timm model."
            )
        if labels == "needed" and not labels_needed:
            labels = "optional"
        columns = choose_columns(data, image_column, label_column, labels=labels)
        self.image_processor, self.name = image_processor, name
        self.n_channels = n_channels or channels_of(image_processor)
        self._shortest = _shortest_edge(image_processor)
        self.image_column, self.label_column = columns.image, columns.label
        self.dropped: list[str] = []
        if skip_corrupt:
            data, self.dropped = drop_corrupt(data, self.image_column)
        self.data = data
        if cache and not self.is_deterministic:
            raise InputError("Pictures of a data set with a transform differ each time. Leave cache=True away.")
        found = self._read_labels(data, labels)
        self.labels = None if found is None else found.values
        self.classes = None if found is None else found.classes
        self.notes = (*columns.notes, *(() if found is None else found.notes))
        self._rows = undecoded(data, self.image_column)
        # `datasets` copies all types, with the names of all classes, each time that one is asked for.
        self._type = data.features[self.image_column]
        self._cache: dict[int, torch.Tensor] | None = {} if cache else None
        # What a stored label means, for a transform that may change it; read when one runs.
        self._stored: list[Any] = []
        self._meanings: dict[Any, int] | None = None

    def with_classes(self, names: Sequence[str], *, what: str = "the data", other: str = "the model") -> ImageInputs:
        """The same pictures with the labels numbered in the order of ``names``, and a note that says so.

        Raises:
            InputError: the data name a class that is not among ``names``.
        """
        if self.classes is None or self.labels is None:
            raise InputError(f"{what} have numbers and no class names, so that they cannot be brought into an order.")
        mapping = align_labels(self.classes, names, data=what, other=other, subset_allowed=True)
        twin = copy.copy(self)
        twin.labels, twin.classes = [mapping[label] for label in self.labels], list(names)
        twin._meanings = None
        twin.notes = (*self.notes, f"the labels of {what} are numbered in the order of {other}'s classes")
        return twin

    def without_labels(self) -> ImageInputs:
        """The same pictures alone."""
        twin = copy.copy(self)
        twin.label_column = twin.labels = twin.classes = None
        return twin

    @property
    def is_deterministic(self) -> bool:
        """Whether a row gives the same tensor each time; a transform of the data set may not."""
        return self.data.format["type"] != "custom"

    @property
    def column_names(self) -> list[str]:
        return ["pixel_values"] if self.labels is None else ["pixel_values", "labels"]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([int(index)])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        indices = [int(index) for index in indices]
        known = self._cache if self._cache is not None else {}
        if not self.is_deterministic:
            # A transform may give one row two different pictures, so that nothing is prepared once for both.
            return self._transformed(indices)
        missing = [index for index in dict.fromkeys(indices) if index not in known]
        fresh = dict(zip(missing, self._process(missing), strict=True)) if missing else {}
        if self._cache is not None:
            self._cache.update(fresh)
        images = [fresh[index] if index in fresh else known[index] for index in indices]
        return self._items(images, None if self.labels is None else [self.labels[index] for index in indices])

    def __getstate__(self) -> dict[str, Any]:
        # Each worker keeps images of its own: handing over those of the parent would copy them into every one.
        return {**self.__dict__, "_cache": None if self._cache is None else {}}

    def _read_labels(self, data: Dataset, use: LabelUse) -> Labels | None:
        if self.label_column is None:
            return None
        if use == "optional" and why_unlabelled(data, self.label_column) is not None:
            self.label_column = None
            return None
        return read_labels(data, self.label_column, self.name)

    def _transformed(self, indices: list[int]) -> list[dict[str, Any]]:
        # Of the data themselves: their transform may have been set after they were wrapped.
        batch = self.data[indices]
        if "pixel_values" in batch:
            images = torch.stack([torch.as_tensor(one) for one in batch["pixel_values"]])
        elif self.image_column in batch:
            images = self._tensors(batch[self.image_column], indices)
        else:
            raise InputError(
                f"The transform of the data set gives {', '.join(batch)}: neither 'pixel_values' nor the pictures "
                f"({self.image_column!r}). Let it give one of the two."
            )
        labels = None
        if self.labels is not None:
            given = batch.get(self.label_column, batch.get("labels", [None] * len(indices)))
            labels = [self._meant(one, index) for one, index in zip(given, indices, strict=True)]
        return self._items(images, labels)

    def _meant(self, given: Any, index: int) -> int:
        """The number of the class that a transform gives for a row: what it makes of a label counts."""
        assert self.labels is not None
        assert self.label_column is not None
        if self._meanings is None:
            self._stored = [plain_label(one) for one in label_values(self.data, self.label_column)]
            self._meanings = dict(zip(self._stored, self.labels, strict=True))
        value = plain_label(given)
        if value is None or value == self._stored[index]:
            return self.labels[index]
        if value in self._meanings:
            return self._meanings[value]
        if isinstance(value, int) and all(own == number for own, number in self._meanings.items()):
            return value
        raise InputError(
            f"The transform of the data set gives the label {str(given)[:60]} for row {index}, which no row of column "
            f"{self.label_column!r} holds. Let it give labels as they are stored there, one class a picture, or number "
            "them in the data set itself: dataset.map(…)."
        )

    def _process(self, indices: list[int]) -> torch.Tensor:
        return self._tensors(self._rows[indices][self.image_column], indices, self._type)

    def _tensors(self, pictures: Sequence[Any], indices: list[int], stored: Any = None) -> torch.Tensor:
        """Pictures are decoded a few at a time: what is kept is as large as the model's input, not as they are.

        ``stored`` is the type of the column that they come from without a transform between.
        """
        parts: list[torch.Tensor] = []
        waiting: list[Image.Image] = []
        for picture, index in zip(pictures, indices, strict=True):
            waiting.append(self._plain(picture, index, stored))
            if sum(one.width * one.height for one in waiting) >= PIXELS_AT_ONCE:
                parts.append(self._prepared(waiting))
                waiting = []
        if waiting:
            parts.append(self._prepared(waiting))
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _prepared(self, images: list[Image.Image]) -> torch.Tensor:
        try:
            pixels = torch.as_tensor(self.image_processor(images, return_tensors="pt")["pixel_values"])
            if len(pixels) != len(images):
                raise InputError(
                    f"The image processor ({type(self.image_processor).__name__}) made {len(pixels)} of {len(images)} "
                    "pictures. It must give one of each, in their order."
                )
            # One that neither rescales nor normalises leaves bytes, for a model that does both.
            return pixels if pixels.is_floating_point() else pixels.float()
        except (InputError, InputTypeError, MemoryError):
            raise
        except Exception as error:
            # A processor that was read from a stranger's file fails in any way there is.
            advice = "Mend its configuration."
            if isinstance(error, TypeError):
                advice = (
                    "It is called with a list of pictures and return_tensors='pt', as those of transformers are; a "
                    "transform of torchvision belongs to the data set (set_transform)."
                )
            raise InputError(
                f"The image processor ({type(self.image_processor).__name__}) cannot prepare the pictures: "
                f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}. {advice}"
            ) from error

    def _items(self, images: Sequence[torch.Tensor] | torch.Tensor, labels: list[int] | None) -> list[dict[str, Any]]:
        if labels is None:
            return [{"pixel_values": image} for image in images]
        return [{"pixel_values": image, "labels": label} for image, label in zip(images, labels, strict=True)]

    def _check_enlarged(self, image: Image.Image) -> None:
        short, long = sorted(image.size)
        pixels = (self._shortest or 0) ** 2 * long / short
        if pixels > (Image.MAX_IMAGE_PIXELS or math.inf):
            raise InputError(
                f"A picture of {image.width} × {image.height} would be enlarged to {pixels:,.0f} pixels before it is "
                "cropped. Leave it out, or cut it."
            )

    def _plain(self, picture: Any, index: int, stored: Any) -> Image.Image:
        try:
            numbers = as_numbers(picture, self._type)
            image = to_channels(in_mode(numbers, stored), self.n_channels)
            self._check_enlarged(image)
            return image
        except (InputError, InputTypeError) as error:
            of = f" of the {self.name} data" if self.name else ""
            raise type(error)(f"Row {index}{of}: {error}") from error


def _shortest_edge(image_processor: Any) -> float | None:
    """To which an image processor brings the shorter edge, keeping the ratio of both; None where it brings them to two.

    Of timm's the crop is a share of what was resized.
    """
    timm_config = getattr(image_processor, "data_config", None)
    if timm_config is not None and timm_config.get("crop_mode") != "center":
        return None
    if timm_config is not None:
        return min(timm_config["input_size"][1:]) / (timm_config.get("crop_pct") or 1)
    size = getattr(image_processor, "size", None)
    return size.get("shortest_edge") if isinstance(size, Mapping) else getattr(size, "shortest_edge", None)


def undecoded(data: Dataset, column: str) -> Dataset:
    """The rows as files, where no transform stands before them, so that a broken one can be named by its path."""
    if data.format["type"] == "custom":
        return data
    plain = data.with_format(None).select_columns([column])
    if isinstance(data.features[column], ImageFeature):
        plain = plain.cast_column(column, ImageFeature(mode=data.features[column].mode, decode=False))
    return plain
