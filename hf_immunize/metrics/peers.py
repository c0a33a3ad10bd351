"""θ0 and what was made of it over one data set in one pass, in the precision that their spectra need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.utils.data import Dataset, Subset

from hf_immunize.data.collate import collate_images, on_device
from hf_immunize.metrics.precision import KNOWN, OnePass, Values, deciding, is_too_coarse
from hf_immunize.metrics.rounding import N_DRAWN, N_HEAVY
from hf_immunize.models.copies import copied
from hf_immunize.models.extraction import MapStyle, feature_batches
from hf_immunize.models.frozen_prefix import shared_prefix
from hf_immunize.models.repeatable import check_repeatable
from hf_immunize.spectra.spectrum import Spectrum, spectrum

if TYPE_CHECKING:
    from hf_immunize.models.activations import ActivationStore

__all__ = ["Measured", "Peers"]

#: All samples are looked at more closely where they are so many times the rows that this takes.
FEW = 10


@dataclass(frozen=True)
class Measured:
    """Spectra of a model on a task, of each group and of all samples, and how they were measured."""

    groups: list[Spectrum]
    whole: Spectrum
    precision: dict[str, Any]
    seen: OnePass | None = None

    @property
    def accuracy(self) -> float | None:
        """See :attr:`OnePass.accuracy`."""
        return None if self.seen is None else self.seen.accuracy

    @classmethod
    def of(cls, features: torch.Tensor, groups: Sequence[torch.Tensor]) -> Measured:
        """Of features (n, d) that are there, in their own precision."""
        dtype = str(features.dtype).removeprefix("torch.")
        precision = {"groups": {dtype: len(groups)}, "all_samples": dtype}
        return cls([spectrum(features[rows]) for rows in groups], spectrum(features), precision)


class Peers:
    """θ0 and models that were made of it, as they are measured beside one another.

    Args:
        models: by name; ``initial`` is θ0.
        data: of which two samples tell what the models share.
        device: where they run; θ0's own if not given.
        batch_size: of the forward passes.
        activations: of the same data, behind layers that all of the models share; None runs those with each pass.
        progress: show progress bars.
    """

    def __init__(
        self,
        models: Mapping[str, nn.Module],
        data: MapStyle,
        *,
        device: torch.device | str | None = None,
        batch_size: int = 64,
        activations: ActivationStore | None = None,
        progress: bool = False,
    ) -> None:
        # θ0 first: its rank decides for the others.
        self.models = {name: models[name] for name in sorted(models, key=lambda one: one != "initial")}
        self.device = torch.device(device) if device is not None else next(models["initial"].parameters()).device
        self.batch_size, self.progress, self._activations = batch_size, progress, activations
        few = on_device(collate_images([data[index] for index in range(min(2, len(data)))]), self.device)
        for one in self.models.values():
            check_repeatable(one, few)
        is_split = few["pixel_values"].is_floating_point()
        self.prefix = shared_prefix(list(self.models.values())[::-1], few) if is_split else None
        self._ready: dict[tuple[str, torch.dtype], nn.Module] = {}

    def measured(
        self,
        data: MapStyle,
        task: str,
        groups: Sequence[torch.Tensor],
        float64: bool | None,
        orders: Mapping[str, Mapping[int, int]] | None = None,
    ) -> dict[str, Measured]:
        """Each model on a task.

        Args:
            data: of the task.
            task: its name, for progress bars.
            groups: row numbers of each group.
            float64: as in :func:`hf_immunize.evaluate_immunization`.
            orders: name of a model → label of the data → its own number of that class, where that is another.
        """
        if float64:
            self.prefix = None
        first = torch.float64 if float64 else torch.float32
        passes = self._passed(list(self.models), data, task, groups, first, orders=orders)
        measured: dict[str, Measured] = {}
        beside: list[Spectrum] | None = None
        for name, one in passes.items():
            found = [*one.groups(), one.whole()]
            if float64 is None:
                spectra = self._resolved(name, one, found, beside, data, task, groups)
            else:
                spectra = [values.spectrum() for values in found]
            beside = beside or spectra
            dtypes = [str(values.dtype).removeprefix("torch.") for values in found]
            precision = {"groups": dict(Counter(dtypes[:-1])), "all_samples": dtypes[-1]}
            measured[name] = Measured(spectra[:-1], spectra[-1], precision, one)
        return measured

    def _resolved(
        self,
        name: str,
        seen: OnePass,
        found: list[Values],
        initial: list[Spectrum] | None,
        data: MapStyle,
        task: str,
        groups: Sequence[torch.Tensor],
    ) -> list[Spectrum]:
        """Spectra of each group and of all samples; what is too coarse in ``found`` is put right there."""
        beside = [None] * len(found) if initial is None else initial
        coarse = [place for place, pair in enumerate(zip(found, beside, strict=True)) if is_too_coarse(*pair)]
        if len(groups) in coarse:
            index = deciding(found[-1], beside[-1])
            if self._is_known(name, seen, found[-1], index, data, task):
                found[-1] = replace(found[-1], known=index)
                coarse.remove(len(groups))
        if coarse:
            whole = len(groups) in coarse
            again = [place for place in coarse if place < len(groups)]
            one = self._passed((name,), data, task, [groups[place] for place in again], torch.float64, whole)[name]
            values = [*one.groups(), *([one.whole()] if whole else [])]
            for place, better in zip(coarse, values, strict=True):
                found[place] = better
        return [one.spectrum(by_rounding=one.dtype == torch.float32) for one in found]

    def _is_known(self, name: str, seen: OnePass, whole: Values, index: int, data: MapStyle, task: str) -> bool:
        """Whether a few rows in float64 show that rounding leaves a singular value of all samples as it is."""
        if whole.n < FEW * (N_HEAVY + N_DRAWN) or float(whole.values[index - 1]) < whole.floor:
            return False
        check = seen.check(index)
        again = self._passed((name,), data, task, [check.numbers], torch.float64, whole=False)[name]
        return check.relative_error(again.rows(check.numbers)) <= KNOWN

    def _passed(
        self,
        names: Sequence[str],
        data: MapStyle,
        task: str,
        groups: Sequence[torch.Tensor],
        dtype: torch.dtype,
        whole: bool = True,
        orders: Mapping[str, Mapping[int, int]] | None = None,
    ) -> dict[str, OnePass]:
        """One pass of some of the models over the data, or over the rows of the groups alone."""
        where = torch.device("cpu") if self.device.type == "mps" and dtype == torch.float64 else self.device
        prefix, rows = self.prefix, data
        if prefix is not None:
            prefix.model.to(where)
            if self._activations is not None and self._activations.fits(prefix, data)[0]:
                label = f"what all models share, {task} images" if self.progress else None
                rows = self._activations.of(prefix, data, batch_size=self.batch_size, progress=label)
        numbers = torch.arange(len(data)) if whole else torch.cat(list(groups)).unique()
        if not whole:
            rows = Subset(cast("Dataset[Any]", rows), numbers.tolist())
        seen = {name: OnePass(groups, dtype, whole, (orders or {}).get(name)) for name in names}
        models = {name: self._in_precision(name, dtype, where) for name in names}
        precisely = ", in float64" if dtype == torch.float64 else ""
        with ExitStack() as stack:
            if prefix is not None:
                for one in models.values():
                    stack.enter_context(prefix.of(one).bypassed())
            start = 0
            for found, labels in feature_batches(
                models,
                rows,
                batch_size=self.batch_size,
                device=where,
                dtype=dtype,
                prefix=prefix,
                progress=f"{' and '.join(names)} model, {task} images{precisely}" if self.progress else None,
            ):
                for name, (features, logits) in found.items():
                    seen[name].update(numbers[start : start + len(logits)], features, logits, labels)
                start += len(logits)
        return seen

    def _in_precision(self, name: str, dtype: torch.dtype, where: torch.device) -> nn.Module:
        """The model itself if it already fits, else a copy in that precision on that device."""
        model = self.models[name]
        own = next(model.parameters())
        if own.dtype == dtype and own.device == where:
            return model
        if (name, dtype) not in self._ready:
            self._ready[name, dtype] = copied(model).to(where, dtype)
        return self._ready[name, dtype]
