"""Immunize open vision models before release, measure how far it holds, and publish an honest card.

The method: Zheng, Bai, Bullins, Yeh, *Model Immunization from a Condition Number Perspective*, ICML 2025
(arXiv 2505.23760). Names are imported when they are first used, so that ``import hf_immunize`` is quick.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_immunize.attacks import AttackReport, run_attacks
    from hf_immunize.backbones import features_and_logits, select_trainable
    from hf_immunize.data import ImageInputs, load_images
    from hf_immunize.evaluation import Protocol, RIRReport, evaluate_immunization
    from hf_immunize.hub import push_to_hub
    from hf_immunize.linear import LinearImmunization, immunize_linear, optimal_linear_extractor
    from hf_immunize.loading import LoadedModel, load_model
    from hf_immunize.metric import load_rir
    from hf_immunize.ratio import RIR, relative_immunization_ratio
    from hf_immunize.record import DatasetRecord, ImmunizationRecord
    from hf_immunize.regularizers import features_r_ill, features_r_well, r_ill, r_well
    from hf_immunize.saving import save_immunized
    from hf_immunize.spectrum import FeatureGram, Spectrum, condition_number, spectrum
    from hf_immunize.trainer import ImmunizationTrainer, NonFiniteLossError
    from hf_immunize.training_args import ImmunizationArguments

__version__ = "0.1.0"

_HOMES = {
    "attacks": ("AttackReport", "run_attacks"),
    "backbones": ("features_and_logits", "select_trainable"),
    "data": ("ImageInputs", "load_images"),
    "evaluation": ("Protocol", "RIRReport", "evaluate_immunization"),
    "hub": ("push_to_hub",),
    "linear": ("LinearImmunization", "immunize_linear", "optimal_linear_extractor"),
    "loading": ("LoadedModel", "load_model"),
    "metric": ("load_rir",),
    "ratio": ("RIR", "relative_immunization_ratio"),
    "record": ("DatasetRecord", "ImmunizationRecord"),
    "regularizers": ("features_r_ill", "features_r_well", "r_ill", "r_well"),
    "saving": ("save_immunized",),
    "spectrum": ("FeatureGram", "Spectrum", "condition_number", "spectrum"),
    "trainer": ("ImmunizationTrainer", "NonFiniteLossError"),
    "training_args": ("ImmunizationArguments",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "RIR",
    "AttackReport",
    "DatasetRecord",
    "FeatureGram",
    "ImageInputs",
    "ImmunizationArguments",
    "ImmunizationRecord",
    "ImmunizationTrainer",
    "LinearImmunization",
    "LoadedModel",
    "NonFiniteLossError",
    "Protocol",
    "RIRReport",
    "Spectrum",
    "condition_number",
    "evaluate_immunization",
    "features_and_logits",
    "features_r_ill",
    "features_r_well",
    "immunize_linear",
    "load_images",
    "load_model",
    "load_rir",
    "optimal_linear_extractor",
    "push_to_hub",
    "r_ill",
    "r_well",
    "relative_immunization_ratio",
    "run_attacks",
    "save_immunized",
    "select_trainable",
    "spectrum",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


class _Package(types.ModuleType):
    """Keeps the submodule `spectrum`, which importing sets as an attribute, from hiding the function of that name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, types.ModuleType) and name in _HOME_OF):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
