"""The folder that is released: weights, configuration, preprocessing, record, figures and card, whole or not at all."""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import timm
import torch
from torch import nn
from transformers import PreTrainedModel

from hf_immunize.data.preprocessing import PROCESSOR_NAME, TimmImageProcessor
from hf_immunize.errors import InputError, InputTypeError
from hf_immunize.models.forward import unwrap
from hf_immunize.release.card import create_model_card
from hf_immunize.release.card_metadata import EVAL_RESULTS_NAME, eval_results_yaml
from hf_immunize.release.figures import save_figures
from hf_immunize.release.files import WEIGHTS_INDEX_NAME, WEIGHTS_NAME
from hf_immunize.release.merging import CARD_NAME
from hf_immunize.release.record import RECORD_NAME, ImmunizationRecord
from hf_immunize.release.target import check_target, move_into_place

__all__ = ["missing_parts", "save_immunized"]


def save_immunized(
    folder: str | os.PathLike[str],
    model: nn.Module,
    record: ImmunizationRecord,
    image_processor: Callable[..., Any] | None = None,
    figures: bool = True,
    overwrite: bool = False,
    beside: Mapping[str, nn.Module] | None = None,
) -> Path:
    """Writes the complete folder of a release.

    Everything is made in a temporary folder beside the target and moved when it is whole; the record goes last, so a
    folder with a record is a whole one. With ``overwrite=True`` files that no save ever writes stay, and what an author
    wrote around the generated part of README.md is kept.

    Args:
        folder: where to; created with its parents.
        model: ``…ForImageClassification`` of transformers, or a plain timm module.
        record: what was done and measured.
        image_processor: what prepares images for the model. A timm module does without: its own transform is used.
        figures: draw the figures that the record has results for.
        overwrite: allow a folder that is not empty.
        beside: models that the claims are relative to, ``initial`` and ``control``, for folders of these names.

    Returns:
        the folder.

    Raises:
        FileExistsError: the folder is not empty.
        TypeError: a model of neither library.
        ValueError: weights that are not finite, or no image processor for a transformers model.
    """
    folder = check_target(folder, overwrite)
    model = unwrap(model)
    _check_model(model, image_processor)
    folder.parent.mkdir(parents=True, exist_ok=True)
    existing = folder / CARD_NAME
    old_card = existing.read_text(encoding="utf-8") if existing.is_file() else None
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=".unfinished", dir=folder.parent))
    try:
        _save_model(unfinished, model, record, image_processor)
        for name, one in (beside or {}).items():
            (unfinished / name).mkdir()
            _save_model(unfinished / name, one, record, image_processor)
        record.save(unfinished)
        drawn = save_figures(record, unfinished) if figures else []
        card = create_model_card(record, folder.name, existing=old_card, figures=tuple(path.name for path in drawn))
        card.save(unfinished / CARD_NAME)
        results = eval_results_yaml(record)
        if results:
            (unfinished / EVAL_RESULTS_NAME).parent.mkdir()
            (unfinished / EVAL_RESULTS_NAME).write_text(results, encoding="utf-8")
        move_into_place(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def missing_parts(folder: str | os.PathLike[str]) -> list[str]:
    """What a folder lacks to be a whole release; an empty list for a whole one."""
    folder = Path(folder)
    missing = [name for name in ("config.json", RECORD_NAME, CARD_NAME) if not (folder / name).is_file()]
    index = folder / WEIGHTS_INDEX_NAME
    if index.is_file():
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values()))
        missing += [name for name in shards if not (folder / name).is_file()]
    elif not (folder / WEIGHTS_NAME).is_file():
        missing.append(WEIGHTS_NAME)
    config = folder / "config.json"
    if not (folder / PROCESSOR_NAME).is_file():
        # timm keeps its preprocessing in config.json.
        holds_it = config.is_file() and "pretrained_cfg" in json.loads(config.read_text(encoding="utf-8"))
        missing += [] if holds_it else [PROCESSOR_NAME]
    return missing


def _check_model(model: nn.Module, image_processor: Any) -> None:
    if not isinstance(model, PreTrainedModel) and not hasattr(model, "pretrained_cfg"):
        raise InputTypeError(
            f"Cannot save {type(model).__name__}: it is neither a transformers model nor made by timm.create_model."
        )
    bad = [
        name for name, value in model.state_dict().items() if value.is_floating_point() and not value.isfinite().all()
    ]
    if bad:
        raise InputError(
            f"{len(bad)} tensors of the model hold NaN or infinite values, the first is {bad[0]}. Nothing was written. "
            "Take the last good checkpoint, or train again with a smaller λ or learning rate."
        )
    if isinstance(model, PreTrainedModel) and image_processor is None and model.config.model_type != "timm_wrapper":
        raise InputError(
            "A transformers model is released with its image processor, and none was given. Pass image_processor=…, "
            "for example AutoImageProcessor.from_pretrained(base_model)."
        )


def _save_model(folder: Path, model: nn.Module, record: ImmunizationRecord, image_processor: Any) -> None:
    if isinstance(model, PreTrainedModel):
        model.save_pretrained(folder)
        if image_processor is not None and model.config.model_type != "timm_wrapper":
            image_processor.save_pretrained(folder)
        return
    data_config = image_processor.data_config if isinstance(image_processor, TimmImageProcessor) else None
    if any(not value.is_contiguous() for value in model.state_dict().values()):
        model = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    names = _class_names(model, record)
    timm.models.save_for_hf(
        model,
        str(folder),
        model_config={"label_names": names} if names else None,
        safe_serialization=True,
        data_config=data_config,
    )
    # transformers passes the number of classes on its own and fails when model_args holds it too; timm reads it from
    # the top of the file. Without it here, one config.json serves both.
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.get("model_args", {}).pop("num_classes", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _class_names(model: nn.Module, record: ImmunizationRecord) -> list[str] | None:
    pretrained = cast(Any, model.pretrained_cfg)
    for names in (record.primary.classes, pretrained.get("label_names")):
        if names and len(names) == model.num_classes:
            return list(names)
    return None
