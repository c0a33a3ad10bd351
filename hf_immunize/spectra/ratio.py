"""The relative immunization ratio at a common index, with bounds named (arXiv 2505.23760, section 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import ArrayLike

from hf_immunize.errors import InputError
from hf_immunize.spectra.eigen import exp_or_inf
from hf_immunize.spectra.spectrum import FeatureGram, Spectrum, spectrum

__all__ = ["RIR", "SIGN", "Bound", "relative_immunization_ratio"]

#: What a printed number is: the value itself, a lower bound of it, an upper bound, or neither.
Bound = Literal["exact", "lower", "upper", "undetermined"]
SIGN: dict[str, str] = {"exact": "", "lower": "≥ ", "upper": "≤ ", "undetermined": "? "}


@dataclass(frozen=True, eq=False)
class RIR:
    """RIR_θ0 = (i)/(ii), with (i) = κ_H(θᴵ)/κ_H(θ0) and (ii) = κ_P(θᴵ)/κ_P(θ0).

    κ is taken at the index fixed by θ0's rank, so that a model which loses a direction does not look better
    conditioned for it. Where θᴵ's singular value at that index lies under the floor of rounding, κ is a lower bound:
    ``rir_i_bound`` and ``rir_ii_bound`` say so, and ``rir_bound`` what follows for the ratio.
    """

    rir: float
    rir_i: float
    rir_ii: float
    immunized_harmful: Spectrum
    initial_harmful: Spectrum
    immunized_primary: Spectrum
    initial_primary: Spectrum
    rir_bound: Bound = "exact"
    rir_i_bound: Bound = "exact"
    rir_ii_bound: Bound = "exact"

    @property
    def precision_limited(self) -> bool:
        """True where θ0's own spectrum runs into the floor of rounding: the figures then show the tolerance."""
        return self.initial_harmful.precision_limited or self.initial_primary.precision_limited

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers: the three ratios with their bounds, and for each of the four spectra κ, rank, n and d.

        κ is at θ0's rank, as in the ratios; where a spectrum ends before that, at its own last singular value.
        """
        result: dict[str, Any] = {
            "rir": self.rir,
            "rir_i": self.rir_i,
            "rir_ii": self.rir_ii,
            "rir_bound": self.rir_bound,
            "rir_i_bound": self.rir_i_bound,
            "rir_ii_bound": self.rir_ii_bound,
            "precision_limited": self.precision_limited,
        }
        for name in ("immunized_harmful", "initial_harmful", "immunized_primary", "initial_primary"):
            one: Spectrum = getattr(self, name)
            theta_zero: Spectrum = getattr(self, name.replace("immunized", "initial"))
            log_kappa, _ = one.log_condition_number_at(min(one.rank, theta_zero.rank))
            result |= {
                f"{name}_condition_number": exp_or_inf(log_kappa),
                f"{name}_rank": one.rank,
                f"{name}_n_samples": one.n_samples,
                f"{name}_n_features": one.n_features,
            }
        return result

    def __str__(self) -> str:
        ranks = (
            f"rank harmful {self.initial_harmful.rank} -> {self.immunized_harmful.rank} (n = "
            f"{self.initial_harmful.n_samples}), primary {self.initial_primary.rank} -> {self.immunized_primary.rank} "
            f"(n = {self.initial_primary.n_samples})"
        )
        limited = "; limited by precision" if self.precision_limited else ""
        return (
            f"RIR {SIGN[self.rir_bound]}{self.rir:.4g}, (i) {SIGN[self.rir_i_bound]}{self.rir_i:.4g}, "
            f"(ii) {SIGN[self.rir_ii_bound]}{self.rir_ii:.4g}; {ranks}{limited}"
        )


def relative_immunization_ratio(
    immunized_harmful: ArrayLike | FeatureGram | Spectrum,
    initial_harmful: ArrayLike | FeatureGram | Spectrum,
    immunized_primary: ArrayLike | FeatureGram | Spectrum,
    initial_primary: ArrayLike | FeatureGram | Spectrum,
) -> RIR:
    """RIR_θ0 of features before and after immunization.

    Args:
        immunized_harmful: features (n_H, d) of the harmful data under θᴵ, or a :class:`FeatureGram` or
            :class:`Spectrum` of them.
        initial_harmful: the same samples under θ0.
        immunized_primary: features (n_P, d) of the primary data under θᴵ.
        initial_primary: the same samples under θ0.

    Raises:
        ValueError: different numbers of samples before and after, a single sample, all-zero initial features.

    Example:
        >>> import torch
        >>> x = torch.diag(torch.tensor([2.0, 1.0]))
        >>> y = torch.diag(torch.tensor([4.0, 1.0]))
        >>> round(relative_immunization_ratio(y, x, x, x).rir, 6)
        4.0
    """
    theta_h, zero_h = _as_spectrum(immunized_harmful), _as_spectrum(initial_harmful)
    theta_p, zero_p = _as_spectrum(immunized_primary), _as_spectrum(initial_primary)
    log_i, i_is_bound = _log_ratio(theta_h, zero_h, "harmful")
    log_ii, ii_is_bound = _log_ratio(theta_p, zero_p, "primary")
    bound: Bound = "exact"
    if i_is_bound and ii_is_bound:
        bound = "undetermined"
    elif i_is_bound:
        bound = "lower"
    elif ii_is_bound:
        bound = "upper"
    return RIR(
        rir=exp_or_inf(log_i - log_ii),
        rir_i=exp_or_inf(log_i),
        rir_ii=exp_or_inf(log_ii),
        immunized_harmful=theta_h,
        initial_harmful=zero_h,
        immunized_primary=theta_p,
        initial_primary=zero_p,
        rir_bound=bound,
        rir_i_bound="lower" if i_is_bound else "exact",
        rir_ii_bound="lower" if ii_is_bound else "exact",
    )


def _as_spectrum(source: ArrayLike | FeatureGram | Spectrum) -> Spectrum:
    if isinstance(source, Spectrum):
        return source
    return source.spectrum() if isinstance(source, FeatureGram) else spectrum(source)


def _log_ratio(immunized: Spectrum, initial: Spectrum, task: str) -> tuple[float, bool]:
    if immunized.n_samples != initial.n_samples:
        raise InputError(
            f"The {task} features before and after immunization must come from the same samples, got "
            f"{initial.n_samples} before and {immunized.n_samples} after."
        )
    if initial.n_samples < 2:
        raise InputError(
            f"One {task} sample has the condition number 1 under every model. Pass two or more, better 100 a group."
        )
    if initial.rank == 0:
        raise InputError(f"The initial {task} features are all zero, so there is nothing to compare with.")
    before, _ = initial.log_condition_number_at(initial.rank)
    if immunized.rank == 0:
        raise InputError(f"The immunized {task} features are all zero: the model has collapsed on this task.")
    after, is_bound = immunized.log_condition_number_at(initial.rank)
    return after - before, is_bound
