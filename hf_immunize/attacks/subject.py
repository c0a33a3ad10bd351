"""One model under attack: its features, and the activations before its last stage, made once however many attack it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from hf_immunize.attacks.attacker import View
from hf_immunize.data.collate import collate_images, on_device
from hf_immunize.data.streams import first_samples
from hf_immunize.models.activations import ActivationStore, CachedActivations
from hf_immunize.models.copies import copied
from hf_immunize.models.extraction import Extracted, MapStyle, extract_features
from hf_immunize.models.forward import without_autocast
from hf_immunize.models.frozen_prefix import FrozenPrefix
from hf_immunize.models.trainable import select_trainable

__all__ = ["KeptImages", "Material", "Redrawn", "Subject"]

#: Data sets by their role: ``train`` and ``test`` of the harmful task, ``primary`` where there is one.
Sets = Mapping[str, MapStyle]


#: Processed images of one data set that stay in memory.
MOST_BYTES = 2**30


class KeptImages(Dataset):
    """A data set whose processed samples stay in memory, as many as fit: several models and attackers read them.

    Images are float32, labels whole numbers, whatever form the samples have.

    Attributes:
        source: the data set itself.
    """

    def __init__(self, data: MapStyle) -> None:
        self.source = data
        self._kept: dict[int, dict[str, torch.Tensor]] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if index in self._kept:
            return self._kept[index]
        batch = collate_images([self.source[index]])
        sample = {name: (value.float() if value.is_floating_point() else value)[0] for name, value in batch.items()}
        self._bytes += sum(value.numel() * value.element_size() for value in sample.values())
        if self._bytes <= MOST_BYTES:
            self._kept[index] = sample
        return sample


@dataclass(frozen=True)
class Material:
    """What attackers of one view get of a model: rows by role, and functions that give copies to train.

    ``public`` is that of the public backbone.
    """

    rows: Mapping[str, Any]
    model: Callable[[], nn.Module] | None = None
    public: Callable[[], nn.Module] | None = None


class Subject:
    """A model and the data of an attack on it.

    Args:
        model: the classifier; never changed. Attackers train copies in float32, whatever precision it was saved in.
        sets: ``train``, ``test`` and perhaps ``primary``: map-style data sets of model inputs.
        batch_size: of forward passes.
        device: where the copies run; the model's own if not given.
        dtype: of the features. In float32 a direction a millionth as strong as the first one is lost in rounding, and
            an attacker who runs the model in float64 would find what is hidden there.
        progress: a label for progress bars, None for none.
        activations: of subjects with the same data: models that differ in their last stage alone run the rest once.
        peers: the subjects that this one is compared with, θ0 first, itself among them. Where the frozen part is θ0's,
            nothing can be hidden there, and features are made from its activations in float32; what differs runs in
            ``dtype``.
        public: the public backbone, for attackers that start from it too.
    """

    def __init__(
        self,
        model: nn.Module,
        sets: Sets,
        *,
        batch_size: int = 64,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float64,
        progress: str | None = None,
        activations: ActivationStore | None = None,
        peers: Sequence[Subject] = (),
        public: nn.Module | None = None,
    ) -> None:
        self.model, self.sets, self.dtype, self.peers, self.public = model, sets, dtype, peers, public
        self._extracted: dict[str, Extracted] = {}
        self.activations = ActivationStore() if activations is None else activations
        self.batch_size, self.progress = batch_size, progress
        self.device = torch.device(device) if device is not None else next(model.parameters()).device

    @classmethod
    def of_features(cls, extracted: Mapping[str, Extracted]) -> Subject:
        """A subject of which only features are known: ``train`` and ``test``."""
        subject = cls.__new__(cls)
        subject._extracted = dict(extracted)
        return subject

    def at(self, seed: int) -> Subject:
        """The subject that attacks of this seed are on: this one for all of them."""
        return self

    def extracted(self, split: str) -> Extracted:
        """Features, logits and labels of the images of a split, made when first asked for."""
        if split not in self._extracted:
            self._extracted[split] = self._extract(split)
        return self._extracted[split]

    def _extract(self, split: str) -> Extracted:
        where = torch.device("cpu") if self.device.type == "mps" else self.device
        model, rows = copied(self.model).to(where, self.dtype).eval(), self.sets[split]
        bypassed: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        prefix = self._prefix
        if prefix is not None and self._shares_with_theta_zero() and self.activations.fits(prefix, rows)[0]:
            rows, bypassed = self._activations_of(prefix, split), prefix.of(model).bypassed()
        with bypassed:
            return extract_features(
                model,
                rows,
                batch_size=self.batch_size,
                device=where,
                dtype=self.dtype,
                progress=f"{self.progress}, {split} images" if self.progress else None,
            )

    def _shares_with_theta_zero(self) -> bool:
        others = [one for one in self.peers if one is not self]
        if others and self is not self.peers[0]:
            others = [self.peers[0]]
        return any(one.frozen_digest == self.frozen_digest for one in others)

    @cached_property
    def frozen_digest(self) -> bytes | None:
        """What tells its frozen part from others; None where it cannot be run apart."""
        return None if self._prefix is None else self._prefix.digest()

    def material(self, view: View) -> Material:
        """Rows and model for attackers of a view."""
        if view == "features":
            return Material({split: self.extracted(split).features for split in ("train", "test")})
        if view == "tail":
            return self._tail
        public = self.public
        return Material(self.sets, self._copy, None if public is None else lambda: self._copy(public))

    def _copy(self, model: nn.Module | None = None) -> nn.Module:
        made = copied(self.model if model is None else model).to(self.device, torch.float32).eval()
        return without_autocast(made)

    @cached_property
    def _prefix(self) -> FrozenPrefix | None:
        """The frozen part before the last stage, of a copy; None where it cannot be run apart."""
        model, few = self._copy(), on_device(self._few, self.device)
        try:
            select_trainable(model, "last", few)
            return FrozenPrefix(model, few)
        except ValueError:
            return None

    @property
    def _few_images(self) -> torch.Tensor:
        return self._few["pixel_values"].to(self.device)

    @cached_property
    def _few(self) -> dict[str, Any]:
        return collate_images(first_samples(next(iter(self.sets.values())), 2))

    def _activations_of(self, prefix: FrozenPrefix, role: str) -> CachedActivations:
        label = f"{self.progress}, frozen part over the {role} images" if self.progress else None
        return self.activations.of(prefix, self.sets[role], batch_size=self.batch_size, progress=label)

    @cached_property
    def _tail(self) -> Material:
        """The frozen part run once; the whole model and the images where it cannot be, or finds no room."""
        # A name of its own, not self, for what the material's function keeps: a subject that nobody needs must go at
        # once, with its activations.
        prefix = self._prefix
        if prefix is None or not self.activations.fits(prefix, *self.sets.values())[0]:
            model = self._copy()
            select_trainable(model, "last", self._few_images)
            return Material(self.sets, lambda: copied(model))
        return Material({role: self._activations_of(prefix, role) for role in self.sets}, prefix.tail)


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
