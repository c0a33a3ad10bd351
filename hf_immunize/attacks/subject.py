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
from hf_immunize.backbones import select_trainable
from hf_immunize.data import collate_images
from hf_immunize.evaluation import Extracted, extract_features
from hf_immunize.frozen_prefix import CachedActivations, FrozenPrefix

__all__ = ["KeptImages", "Material", "Subject"]

#: Data sets by their role: ``train`` and ``test`` of the harmful task, ``primary`` where there is one.
Sets = Mapping[str, Any]


class KeptImages(Dataset):
    """A data set whose processed samples stay in memory: several models and attackers read the same ones."""

    def __init__(self, data: Any) -> None:
        self.data = data
        self._kept: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        if index not in self._kept:
            self._kept[index] = self.data[index]
        return self._kept[index]


@dataclass(frozen=True)
class Material:
    """What attackers of one view get of a model: rows by role, and a function that gives a copy to train."""

    rows: Mapping[str, Any]
    model: Callable[[], nn.Module] | None = None


class Subject:
    """A model and the data of an attack on it.

    Args:
        model: the classifier; never changed.
        sets: ``train``, ``test`` and perhaps ``primary``: map-style data sets of model inputs.
        batch_size: of forward passes.
        device: where the model runs; its own if not given.
        progress: a label for progress bars, None for none.
        shared: activations by the frozen part that gave them, for subjects with the same data: models that differ in
            their last stage alone run the rest once.
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
        self.shared = {} if shared is None else shared
        self.model, self.sets = model, sets
        self.batch_size, self.progress = batch_size, progress
        self.device = torch.device(device) if device is not None else next(model.parameters()).device

    @classmethod
    def of_features(cls, extracted: Mapping[str, Extracted]) -> Subject:
        """A subject of which only features are known: ``train`` and ``test``."""
        subject = cls.__new__(cls)
        subject.__dict__["features"] = dict(extracted)
        return subject

    @cached_property
    def features(self) -> dict[str, Extracted]:
        """Features, logits and labels of the harmful training and test rows.

        Raises:
            ValueError: a feature that is not finite.
        """
        model = self.model.to(self.device)
        found = {
            split: extract_features(
                model,
                self.sets[split],
                batch_size=self.batch_size,
                device=self.device,
                progress=f"{self.progress}, harmful {split} images" if self.progress else None,
            )
            for split in ("train", "test")
        }
        return found

    def material(self, view: View) -> Material:
        """Rows and model for attackers of a view."""
        if view == "features":
            return Material({split: one.features for split, one in self.features.items()})
        return self._tail if view == "tail" else self._images

    @cached_property
    def _images(self) -> Material:
        kept = self.model

        def fresh() -> nn.Module:
            return copy.deepcopy(kept).to(self.device)

        return Material(self.sets, fresh)

    @cached_property
    def _tail(self) -> Material:
        """The frozen part run once; the whole model and the images where it cannot be split."""
        model = copy.deepcopy(self.model).to(self.device)
        images = collate_images([self.sets["train"][index] for index in range(2)])["pixel_values"].to(self.device)
        selection = select_trainable(model, "last", images)
        try:
            prefix = FrozenPrefix(model, images)
        except ValueError:
            return self._images
        label = f"{self.progress}, frozen part over the {{}} images" if self.progress else None
        frozen = _digest(model, selection.modules)
        rows = {}
        for role, data in self.sets.items():
            if (frozen, role) not in self.shared:
                self.shared[frozen, role] = CachedActivations(
                    prefix, data, self.batch_size, progress=label and label.format(role)
                )
            rows[role] = self.shared[frozen, role]

        def fresh() -> nn.Module:
            own = copy.deepcopy(model)
            select_trainable(own, list(selection.modules), images)
            return FrozenPrefix(own, images).tail

        return Material(rows, fresh)


def _digest(model: nn.Module, trained: Sequence[str]) -> bytes:
    """What tells two frozen parts apart: their structure, and every weight and buffer outside what trains."""
    digest = hashlib.blake2b(f"{model!r} {tuple(trained)}".encode())
    for name, value in model.state_dict().items():
        if not any(name.startswith(f"{one}.") for one in trained):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.digest()
