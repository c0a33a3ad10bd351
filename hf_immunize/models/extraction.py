"""Features, logits and labels of a whole data set under a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Protocol, cast

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm.auto import tqdm

from hf_immunize.data.collate import collate_images, on_device
from hf_immunize.data.rows import AsWritten
from hf_immunize.errors import InputError
from hf_immunize.models.convolutions import Float64Convolutions
from hf_immunize.models.forward import as_weights_are, evaluating
from hf_immunize.models.head import features_and_logits
from hf_immunize.models.in_parts import in_parts
from hf_immunize.models.tf32 import without_tf32

__all__ = ["Extracted", "MapStyle", "check_batch_size", "extract_features", "feature_batches"]


class MapStyle(Protocol):
    """A data set with a length and rows by their number, such as those of `datasets` and of `torch`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...


@dataclass(frozen=True)
class Extracted:
    """Features (n, d), logits (n, classes) and labels (n,) or None, on the CPU."""

    features: torch.Tensor
    logits: torch.Tensor
    labels: torch.Tensor | None

    @property
    def accuracy(self) -> float | None:
        """Share of samples whose largest logit is their label."""
        if self.labels is None:
            return None
        return (self.logits.argmax(1) == self.labels).double().mean().item()


def check_batch_size(batch_size: Any) -> None:
    """Raises InputError unless it is a whole number of 1 or more."""
    if not isinstance(batch_size, Integral) or isinstance(batch_size, bool) or batch_size < 1:
        raise InputError(f"batch_size must be a whole number of 1 or more, got {batch_size!r}.")


def feature_batches(
    models: Mapping[str, nn.Module],
    data: MapStyle,
    *,
    batch_size: int = 64,
    device: torch.device | str,
    dtype: torch.dtype,
    prefix: Callable[[torch.Tensor], torch.Tensor] | None = None,
    collate: Callable[[list[Any]], Any] = collate_images,
    num_workers: int = 0,
    progress: str | None = None,
) -> Iterator[tuple[dict[str, tuple[torch.Tensor, torch.Tensor]], torch.Tensor | None]]:
    """Features and logits of each model, and labels, batch by batch in one pass over the data.

    Args:
        models: in evaluation mode while this runs; their training modes are put back afterwards.
        data: a map-style data set of model inputs.
        batch_size: of the forward passes.
        device: of the models.
        dtype: to which floating inputs are cast.
        prefix: from images in float32 to what all of the models take in their place; samples may hold that already,
            under ``activations``.
        collate: from samples to a batch.
        num_workers: of the loader.
        progress: a label for a progress bar.

    Raises:
        ValueError: no samples.
    """
    check_batch_size(batch_size)
    if len(data) == 0:
        raise InputError("The data set is empty, so there are no features. Check its split and its filters.")
    # A generator of its own: a loader draws a number of the caller's each time it is iterated.
    own = torch.Generator().manual_seed(0)
    loader = DataLoader(
        AsWritten(data), batch_size=batch_size, collate_fn=collate, num_workers=num_workers, generator=own
    )
    for batch in tqdm(loader, desc=progress, disable=progress is None, leave=False):
        with ExitStack() as stack:
            # For a batch at a time: nothing of this may hold while the caller runs.
            stack.enter_context(torch.no_grad())
            stack.enter_context(Float64Convolutions())
            stack.enter_context(without_tf32())
            for one in models.values():
                stack.enter_context(evaluating(one))
                stack.enter_context(as_weights_are(one))
            inputs = on_device(batch, device)
            if prefix is not None and "pixel_values" in inputs:
                inputs = {"pixel_values": prefix(inputs["pixel_values"].float())} | {
                    key: value for key, value in inputs.items() if key == "labels"
                }
            inputs = {key: value.to(dtype) if value.is_floating_point() else value for key, value in inputs.items()}
            found = {
                name: _joined(features_and_logits(one, few) for few in in_parts(inputs)) for name, one in models.items()
            }
        yield found, inputs.get("labels")


def _joined(parts: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    features, logits = zip(*parts, strict=True)
    return (features[0], logits[0]) if len(features) == 1 else (torch.cat(features), torch.cat(logits))


def extract_features(
    model: nn.Module,
    data: MapStyle,
    *,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    collate: Callable[[list[Any]], Any] = collate_images,
    accelerator: Accelerator | None = None,
    num_workers: int = 0,
    progress: str | None = None,
) -> Extracted:
    """Features, logits and labels of a whole data set, in its order, with the model in evaluation mode.

    Args:
        model: the classifier; its training mode is put back afterwards.
        data: a map-style data set of model inputs.
        batch_size: of the forward passes.
        device: of the model, if not given.
        dtype: to which floating inputs are cast; that of the model's weights if not given.
        collate: from samples to a batch.
        accelerator: with several processes each takes a share, and all get the whole.
        num_workers: of the loader.
        progress: a label for a progress bar.

    Raises:
        ValueError: no samples.
    """
    processes = accelerator.num_processes if accelerator is not None else 1
    rank = accelerator.process_index if accelerator is not None else 0
    share = math.ceil(len(data) / processes)
    # Every process takes equally many (the last ones again where it does not divide), so that gathering lines up.
    own = [min(rank * share + offset, len(data) - 1) for offset in range(share)]
    whole: dict[str, torch.Tensor] = {}
    done = 0
    for found, labels in feature_batches(
        {"": model},
        data if processes == 1 else Subset(cast("Dataset[Any]", data), own),
        batch_size=batch_size,
        device=device or next(model.parameters()).device,
        dtype=dtype or next(one.dtype for one in model.parameters() if one.is_floating_point()),
        collate=collate,
        num_workers=num_workers,
        progress=progress,
    ):
        features, logits = found[""]
        for name, one in (("features", features), ("logits", logits), ("labels", labels)):
            if one is None:
                continue
            if name not in whole:
                where = one.device if processes > 1 else "cpu"
                whole[name] = torch.empty((share, *one.shape[1:]), dtype=one.dtype, device=where)
            # A copy into its place: features may be a view (`hidden[:, 0]`) that keeps all tokens alive.
            whole[name][done : done + len(one)] = one
        done += len(logits)
    if accelerator is not None and processes > 1:
        whole = {name: accelerator.gather(one)[: len(data)].cpu() for name, one in whole.items()}
    return Extracted(whole["features"], whole["logits"], whole.get("labels"))
