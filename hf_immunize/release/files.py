"""The files of a release: which are the library's own."""

from __future__ import annotations

import fnmatch

from hf_immunize.data.preprocessing import PROCESSOR_NAME
from hf_immunize.release.card_metadata import EVAL_RESULTS_NAME
from hf_immunize.release.figures import ATTACKS_NAME, FIGURES_FOLDER, SPECTRA_NAME
from hf_immunize.release.merging import CARD_NAME
from hf_immunize.release.record import RECORD_NAME

__all__ = ["WEIGHTS_INDEX_NAME", "WEIGHTS_NAME", "generated_files"]

WEIGHTS_NAME = "model.safetensors"
WEIGHTS_INDEX_NAME = "model.safetensors.index.json"
_MODEL_FILES = ("model*.safetensors", WEIGHTS_INDEX_NAME, "config.json", PROCESSOR_NAME)
#: What a save may write, and what the next one may therefore remove: a stale shard would be loaded with new weights.
GENERATED = (
    *_MODEL_FILES,
    RECORD_NAME,
    f"{FIGURES_FOLDER}/{SPECTRA_NAME}",
    f"{FIGURES_FOLDER}/{ATTACKS_NAME}",
    EVAL_RESULTS_NAME,
    CARD_NAME,
    *(f"{name}/{file}" for name in ("initial", "control") for file in _MODEL_FILES),
)


def generated_files(names: list[str]) -> list[str]:
    """Those of the relative paths ``names`` that a save may have written."""
    return [name for name in names if any(_matches(name, pattern) for pattern in GENERATED)]


def _matches(name: str, pattern: str) -> bool:
    # A star stays inside one folder: checkpoint-10/model.safetensors is no release file.
    return name.count("/") == pattern.count("/") and fnmatch.fnmatchcase(name, pattern)
