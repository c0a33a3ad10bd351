"""Immunize open vision models before release, measure how far it holds, and publish an honest card.

The method: Zheng, Bai, Bullins, Yeh, *Model Immunization from a Condition Number Perspective*, ICML 2025
(arXiv 2505.23760). Names are imported when they are first used, so that ``import hf_immunize`` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_immunize.attacks.report import AttackReport
    from hf_immunize.attacks.suite import run_attacks
    from hf_immunize.data.images import ImageInputs
    from hf_immunize.data.sources import load_images
    from hf_immunize.data.task import ImageTask, load_task
    from hf_immunize.linear.immunize import LinearImmunization, immunize_linear
    from hf_immunize.linear.optimum import optimal_linear_extractor
    from hf_immunize.metrics.evaluation import evaluate_immunization
    from hf_immunize.metrics.load import load_rir
    from hf_immunize.metrics.report import Protocol, RIRReport
    from hf_immunize.models.head import features_and_logits
    from hf_immunize.models.loaded import LoadedModel
    from hf_immunize.models.loading import load_model
    from hf_immunize.models.trainable import select_trainable
    from hf_immunize.release.folder import save_immunized
    from hf_immunize.release.hub import push_to_hub
    from hf_immunize.release.record import DatasetRecord, ImmunizationRecord
    from hf_immunize.release.verify import Verification, verify
    from hf_immunize.spectra.ratio import RIR, relative_immunization_ratio
    from hf_immunize.spectra.regularizers import features_r_ill, features_r_well, r_ill, r_well
    from hf_immunize.spectra.spectrum import FeatureGram, Spectrum, condition_number, spectrum
    from hf_immunize.training.arguments import ImmunizationArguments
    from hf_immunize.training.finite import NonFiniteLossError
    from hf_immunize.training.immunize import Immunization, immunize
    from hf_immunize.training.trainer import ImmunizationTrainer

__version__ = "0.1.0"

_HOMES = {
    "attacks.report": ("AttackReport",),
    "attacks.suite": ("run_attacks",),
    "data.images": ("ImageInputs",),
    "data.sources": ("load_images",),
    "data.task": ("ImageTask", "load_task"),
    "linear.immunize": ("LinearImmunization", "immunize_linear"),
    "linear.optimum": ("optimal_linear_extractor",),
    "metrics.evaluation": ("evaluate_immunization",),
    "metrics.report": ("Protocol", "RIRReport"),
    "metrics.load": ("load_rir",),
    "models.head": ("features_and_logits",),
    "models.loaded": ("LoadedModel",),
    "models.loading": ("load_model",),
    "models.trainable": ("select_trainable",),
    "release.folder": ("save_immunized",),
    "release.hub": ("push_to_hub",),
    "release.record": ("DatasetRecord", "ImmunizationRecord"),
    "release.verify": ("Verification", "verify"),
    "spectra.ratio": ("RIR", "relative_immunization_ratio"),
    "spectra.regularizers": ("features_r_ill", "features_r_well", "r_ill", "r_well"),
    "spectra.spectrum": ("FeatureGram", "Spectrum", "condition_number", "spectrum"),
    "training.arguments": ("ImmunizationArguments",),
    "training.finite": ("NonFiniteLossError",),
    "training.immunize": ("Immunization", "immunize"),
    "training.trainer": ("ImmunizationTrainer",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "RIR",
    "AttackReport",
    "DatasetRecord",
    "FeatureGram",
    "ImageInputs",
    "ImageTask",
    "Immunization",
    "ImmunizationArguments",
    "ImmunizationRecord",
    "ImmunizationTrainer",
    "LinearImmunization",
    "LoadedModel",
    "NonFiniteLossError",
    "Protocol",
    "RIRReport",
    "Spectrum",
    "Verification",
    "condition_number",
    "evaluate_immunization",
    "features_and_logits",
    "features_r_ill",
    "features_r_well",
    "immunize",
    "immunize_linear",
    "load_images",
    "load_model",
    "load_rir",
    "load_task",
    "optimal_linear_extractor",
    "push_to_hub",
    "r_ill",
    "r_well",
    "relative_immunization_ratio",
    "run_attacks",
    "save_immunized",
    "select_trainable",
    "spectrum",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
