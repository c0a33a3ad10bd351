"""One model under attack: its features, and the activations before its last stage, made once however many attack it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from hf_immunize.attacks.attacker import View
from hf_immunize.data.images import collate_images
from hf_immunize.models.extraction import Extracted, extract_features
from hf_immunize.models.frozen_prefix import CachedActivations, FrozenPrefix
from hf_immunize.models.trainable import select_trainable

__all__ = ["KeptImages", "Material", "Redrawn", "Subject"]

#: Data sets by their role: ``train`` and ``test`` of the harmful task, ``primary`` where there is one.
Sets = Mapping[str, Any]


class KeptImages(Dataset):
    """A data set whose processed samples stay in memory: several models and attackers read the same ones.

    Images are float32, labels whole numbers, whatever form the samples have.
    """

    def __init__(self, data: Any) -> None:
        self.data = data
        self._kept: dict[int, dict[str, torch.Tensor]] = {}

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if index not in self._kept:
            sample = collate_images([self.data[index]])
            self._kept[index] = {
                name: (value.float() if value.is_floating_point() else value)[0] for name, value in sample.items()
            }
        return self._kept[index]


@dataclass(frozen=True)
class Material:
    """What attackers of one view get of a model: rows by role, and a function that gives a copy to train."""

    rows: Mapping[str, Any]
    model: Callable[[], nn.Module] | None = None


class Subject:
    """A model and the data of an attack on it.

    Args:
        model: the classifier; never changed. Attackers train copies in float32, whatever precision it was saved in.
        sets: ``train``, ``test`` and perhaps ``primary``: map-style data sets of model inputs.
        batch_size: of forward passes.
        device: where the copies run; the model's own if not given.
        progress: a label for progress bars, None for none.
        shared: activations by the frozen part that gave them, for subjects with the same data: models that differ in
            their last stage alone run the rest once. Given, features are made from these activations too.
    """

    def __init__(
        self,
        model: nn.Module,
        sets: Sets,
        *,
        batch_size: int = 64,
        device: torch.device | str | None = None,
        progress: str | None = None,
        shared: dict[tuple[bytes, str], CachedActivations] | None = None,
    ) -> None:
        self.model, self.sets, self.shared = model, sets, shared
        self.batch_size, self.progress = batch_size, progress
        self.device = torch.device(device) if device is not None else next(model.parameters()).device

    @classmethod
    def of_features(cls, extracted: Mapping[str, Extracted]) -> Subject:
        """A subject of which only features are known: ``train`` and ``test``."""
        subject = cls.__new__(cls)
        subject.__dict__["features"] = dict(extracted)
        return subject

    def at(self, seed: int) -> Subject:
        """The subject that attacks of this seed are on: this one for all of them."""
        return self

    @cached_property
    def features(self) -> dict[str, Extracted]:
        """Features, logits and labels of the harmful training and test rows, in float64.

        In float32 a direction a millionth as strong as the first one is lost in rounding, and an attacker who runs the
        model in float64 would find what is hidden there.
        """
        where = torch.device("cpu") if self.device.type == "mps" else self.device
        model = self._copy().to(where, torch.float64)
        rows = self.sets
        if self.shared is not None and self._prefix is not None:
            images = self._few_images.to(where, torch.float64)
            select_trainable(model, self._selected[1], images)
            model, rows = FrozenPrefix(model, images).tail, self._tail.rows
        return {
            split: extract_features(
                model,
                rows[split],
                batch_size=self.batch_size,
                device=where,
                dtype=torch.float64,
                progress=f"{self.progress}, {split} images" if self.progress else None,
            )
            for split in ("train", "test")
        }

    def material(self, view: View) -> Material:
        """Rows and model for attackers of a view."""
        if view == "features":
            return Material({split: one.features for split, one in self.features.items()})
        return Material(self.sets, self._copy) if view == "images" else self._tail

    def _copy(self) -> nn.Module:
        return copy.deepcopy(self.model).to(self.device, torch.float32).eval()

    @cached_property
    def _few_images(self) -> torch.Tensor:
        return collate_images([self.sets["train"][index] for index in range(2)])["pixel_values"].to(self.device)

    @cached_property
    def _selected(self) -> tuple[nn.Module, list[str]]:
        """A copy of which the last stage alone trains, and the names of what trains."""
        model = self._copy()
        return model, list(select_trainable(model, "last", self._few_images).modules)

    @cached_property
    def _prefix(self) -> FrozenPrefix | None:
        """The frozen part; None where it cannot be run apart."""
        try:
            return FrozenPrefix(self._selected[0], self._few_images)
        except ValueError:
            return None

    @cached_property
    def _tail(self) -> Material:
        """The frozen part run once; the whole model and the images where it cannot be split."""
        # Names of its own, not self, for the function that the material keeps: a subject that nobody needs must go at
        # once, with its activations.
        prefix, (selected, modules), few = self._prefix, self._selected, self._few_images

        def fresh() -> nn.Module:
            own = copy.deepcopy(selected)
            select_trainable(own, modules, few)
            return own if prefix is None else FrozenPrefix(own, few).tail

        if prefix is None:
            return Material(self.sets, fresh)
        label = f"{self.progress}, frozen part over the {{}} images" if self.progress else None
        kept = {} if self.shared is None else self.shared
        frozen = _digest(selected, modules)
        for role, data in self.sets.items():
            if (frozen, role) not in kept:
                kept[frozen, role] = CachedActivations(
                    prefix, data, self.batch_size, progress=label and label.format(role)
                )
        return Material({role: kept[frozen, role] for role in self.sets}, fresh)


class Redrawn:
    """A subject that is another one for each seed, such as random weights; one at a time is kept.

    Args:
        make: from a seed to its subject.
    """

    def __init__(self, make: Callable[[int], Subject]) -> None:
        self._make = make
        self._seed: int | None = None
        self._subject: Subject | None = None

    def at(self, seed: int) -> Subject:
        """The subject that attacks of this seed are on."""
        if self._subject is None or self._seed != seed:
            # The one before goes first: its activations may be the largest thing in memory.
            self._subject = None
            self._seed, self._subject = seed, self._make(seed)
        return self._subject


def _digest(model: nn.Module, trained: Sequence[str]) -> bytes:
    """What tells two frozen parts apart: their structure, and every weight and buffer outside what trains."""
    digest = hashlib.blake2b(f"{model!r} {tuple(trained)}".encode())
    for name, value in model.state_dict().items():
        if not any(name.startswith(f"{one}.") for one in trained):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.digest()
