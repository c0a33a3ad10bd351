"""What RIR reads of a model and a task, in one pass over the data, and where float32 is too coarse for it.

Features are made in float32 first, and decomposed in float64. The floor of float32 is then the rounding of the
features, E with ‖E‖_F a few times eps·‖X‖_F, whatever n. It points in no direction, so that it moves a singular value
s of features (n, d) by uᵀEv, about ‖E‖_F/√(nd), and by less than ‖Ev‖²/2s. What decides a condition number and is not
far above both is measured again in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from hf_immunize.errors import InputError
from hf_immunize.metrics.rounding import RoundingCheck
from hf_immunize.spectra.eigen import rank_floor
from hf_immunize.spectra.factor import FeatureFactor
from hf_immunize.spectra.leverage import HeavyRows
from hf_immunize.spectra.spectrum import Spectrum, cut

__all__ = ["KNOWN", "OnePass", "Values", "deciding", "is_too_coarse"]

#: A singular value is known where its relative error is no more: κ has twice that error, and RIR four κ.
KNOWN = 1e-3 / 8

#: ‖E‖_F over the floor is 2 for a ResNet18 and 5.5 for a ViT of twelve blocks; so much over a ten-thousandth.
FIRST_ORDER = 5e4
#: The least distance from the floor, as a factor, for the second order.
SECOND_ORDER = 30.0


@dataclass(frozen=True, eq=False)
class Values:
    """All singular values of features (n, d), the largest first, float64.

    Attributes:
        live: columns that are not zero for every sample.
        dtype: in which the features were computed.
        known: the index, from 1, of a singular value that is known however near the floor it lies; 0 for none.
    """

    values: torch.Tensor
    n: int
    d: int
    live: int
    dtype: torch.dtype
    known: int = 0

    @classmethod
    def of(cls, factor: FeatureFactor, dtype: torch.dtype) -> Values:
        """Of all rows of a factor."""
        return cls(factor.singular_values(), factor.n_samples, factor.n_features, int(factor.live.sum()), dtype)

    @property
    def floor(self) -> float:
        """The rounding of the features, as a singular value."""
        return torch.finfo(self.dtype).eps * float(torch.linalg.vector_norm(self.values))

    @property
    def trusted(self) -> float:
        """The least singular value that is known to a ten-thousandth."""
        return max(SECOND_ORDER, FIRST_ORDER / math.sqrt(max(1, self.n * self.live))) * self.floor

    def spectrum(self, by_rounding: bool = False) -> Spectrum:
        """Those above max(n, d)·eps·s_1; or above what rounding reaches, where what decides is trusted or is zero."""
        largest, reach = float(self.values[0]), SECOND_ORDER * self.floor
        if self.known:
            reach = min(reach, float(self.values[self.known - 1]) * (1 - KNOWN))
        relative = reach / largest if by_rounding and largest > 0 else rank_floor(self.n, self.d, self.dtype)
        return cut(self.values.flip(0).square(), self.n, self.d, relative, min(self.n, self.d))


def is_too_coarse(found: Values, initial: Spectrum | None = None) -> bool:
    """Whether a singular value that decides lies near the floor of the precision, or under it.

    Args:
        found: of a model.
        initial: θ0's, whose rank is the index that decides; None where the model is θ0 itself.
    """
    index = deciding(found, initial)
    return index > 0 and float(found.values[index - 1]) < found.trusted


def deciding(found: Values, initial: Spectrum | None = None) -> int:
    """The index, from 1, of the singular value that κ is taken at, as far as there is one; 0 if there is none.

    It is θ0's rank. Of θ0 itself every direction counts that its samples and its live features can have. Beyond the
    live features of a model there is nothing in any precision, and κ is bounded by what rounding reaches.
    """
    index = min(found.n, found.live) if initial is None else initial.rank
    return index if 1 <= index <= found.live else 0


class OnePass:
    """Collects what RIR needs of one model and one task while its features go by.

    Args:
        groups: row numbers of each group.
        dtype: in which the features are computed.
        whole: whether all rows are wanted too.
        order: label of the data → the model's number of that class, where that is another.
    """

    def __init__(
        self,
        groups: Sequence[torch.Tensor],
        dtype: torch.dtype,
        whole: bool = True,
        order: Mapping[int, int] | None = None,
    ) -> None:
        self._groups, self._dtype = list(groups), dtype
        self._wanted = torch.cat(self._groups).unique() if self._groups else torch.empty(0, dtype=torch.long)
        self._rows: list[torch.Tensor] = []
        self._factor: FeatureFactor | None = None
        self._heavy: HeavyRows | None = None
        self._is_whole, self._order = whole, order or {}
        self._right = 0
        self._labels: set[int] = set()
        self._n_labelled = self._n_classes = 0

    def update(
        self, numbers: torch.Tensor, features: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor | None
    ) -> None:
        """Adds a batch: row numbers in ascending order, features (n, d), logits (n, classes) and labels (n,)."""
        picked = torch.isin(numbers, self._wanted)
        self._rows.append(features[picked.to(features.device)].cpu())
        if self._is_whole:
            if self._factor is None:
                self._factor = FeatureFactor(features.shape[1])
                self._heavy = HeavyRows(self._factor) if self._dtype == torch.float32 else None
            self._factor.update(features)
            if self._heavy is not None:
                self._heavy.update(numbers, features)
        if labels is not None:
            if self._order:
                labels = labels.new_tensor([self._order.get(one, one) for one in labels.tolist()])
            self._right += int((logits.argmax(1) == labels).sum())
            self._labels |= set(labels.unique().tolist())
            self._n_labelled, self._n_classes = self._n_labelled + len(labels), logits.shape[1]

    @property
    def accuracy(self) -> float | None:
        """Share of samples whose largest logit is their label; None without labels.

        Raises:
            InputError: labels that the model has no logit for.
        """
        if not self._n_labelled:
            return None
        if not 0 <= min(self._labels) <= max(self._labels) < self._n_classes:
            raise InputError(f"labels from {min(self._labels)} to {max(self._labels)}, {self._n_classes} classes.")
        return self._right / self._n_labelled

    def rows(self, group: torch.Tensor) -> torch.Tensor:
        """Features (m, d) of the rows of a group, on the CPU."""
        if len(self._rows) > 1:
            self._rows = [torch.cat(self._rows)]
        return self._rows[0][torch.searchsorted(self._wanted, group)]

    def check(self, index: int) -> RoundingCheck:
        """Of the singular value at an index, of all rows in float32."""
        assert self._factor is not None, "all rows are there where they were wanted"
        assert self._heavy is not None, "and in float32"
        drawn = self._groups[0]
        return RoundingCheck.of(index, self._factor, self._heavy, (drawn, self.rows(drawn)))

    def groups(self) -> Iterable[Values]:
        """Of each group."""
        for group in self._groups:
            rows = self.rows(group)
            factor = FeatureFactor(rows.shape[1])
            factor.update(rows)
            yield Values.of(factor, self._dtype)

    def whole(self) -> Values:
        """Of all rows."""
        assert self._factor is not None, "all rows are there where they were wanted"
        return Values.of(self._factor, self._dtype)
