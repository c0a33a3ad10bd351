"""The folder that is released: weights, configuration, preprocessing, record, figures and card, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from hf_immunize.data.preprocessing import PROCESSOR_NAME
from hf_immunize.errors import InputError, InputTypeError
from hf_immunize.models.forward import unwrap
from hf_immunize.models.pooled import PooledClassifier
from hf_immunize.models.rebuilding import check_rebuilds, write_timm_config
from hf_immunize.models.untrusted import WEIGHTS_INDEX_NAME, WEIGHTS_NAME, read_json, shards_of
from hf_immunize.release.card import create_model_card
from hf_immunize.release.card_metadata import EVAL_RESULTS_NAME, eval_results_yaml
from hf_immunize.release.figures import save_figures
from hf_immunize.release.files import checksums
from hf_immunize.release.merging import CARD_NAME, read_card, without_generated
from hf_immunize.release.privacy import without_places
from hf_immunize.release.record import RECORD_NAME, ImmunizationRecord
from hf_immunize.release.target import check_target, claimed, move_into_place, unfinished_beside

__all__ = ["missing_parts", "save_immunized", "weights_names", "write_papers"]

_OF_TRANSFORMERS = (PreTrainedModel, PooledClassifier)


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
    wrote around the generated part of README.md is kept, and of its metadata what the earlier record did not generate.

    Args:
        folder: where to; created with its parents.
        model: ``…ForImageClassification`` of transformers, or a plain timm module.
        record: what was done and measured.
        image_processor: what prepares images for the model. A timm module does without: its own transform is used.
        figures: draw the figures that the record has results for.
        overwrite: allow a folder that is not empty.
        beside: models that the claims are relative to, as ``initial`` and ``control``, for folders of these names.

    Returns:
        the folder.

    Raises:
        FileExistsError: the folder is not empty.
        TypeError: a model of neither library.
        ValueError: weights that are not finite, or that the model's configuration does not describe, so that nobody
            could load them; no image processor for a transformers model, or one of another kind for a timm module.
    """
    model = unwrap(model)
    _check_model(model, image_processor)
    folder = check_target(folder, overwrite)
    with claimed(folder) as folder:
        check_target(folder, overwrite)
        old_card = _authors_card(folder)
        unfinished = unfinished_beside(folder)
        try:
            _write(unfinished, folder.name, model, record, image_processor, figures, beside or {}, old_card)
            move_into_place(unfinished, folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _write(
    folder: Path,
    name: str,
    model: nn.Module,
    record: ImmunizationRecord,
    image_processor: Any,
    figures: bool,
    beside: Mapping[str, nn.Module],
    old_card: str | None,
) -> None:
    # What no reader would take back is not written.
    ImmunizationRecord.from_dict(record.to_dict())
    _save_model(folder, model, record, image_processor)
    for one, other in beside.items():
        (folder / one).mkdir()
        _save_model(folder / one, other, record, image_processor)
    write_papers(folder, name, record, old_card, figures)


def write_papers(
    folder: Path, name: str, record: ImmunizationRecord, old_card: str | None, figures: bool = True
) -> None:
    """Writes what stands beside the weights of a release: figures, results, the record of all files, and the card.

    Args:
        folder: that holds the weights.
        name: of the release.
        record: what was done and measured.
        old_card: the text of an earlier card, whose author's words are kept.
        figures: draw those that the record has results for.
    """
    drawn = save_figures(record, folder) if figures else []
    results = eval_results_yaml(record)
    if results:
        (folder / EVAL_RESULTS_NAME).parent.mkdir()
        (folder / EVAL_RESULTS_NAME).write_text(results, encoding="utf-8")
    for path in (*folder.rglob("config.json"), *folder.rglob(PROCESSOR_NAME)):
        text = json.dumps(without_places(read_json(path)), indent=2, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")
    record = replace(record, files=checksums(folder))
    record.save(folder)
    card = create_model_card(record, name, existing=old_card, figures=tuple(path.name for path in drawn))
    card.save(folder / CARD_NAME)


def _authors_card(folder: Path) -> str | None:
    """The card of an earlier run without what that run's record put into it; None where there is no card."""
    if not (folder / CARD_NAME).is_file():
        return None
    card = read_card(folder / CARD_NAME)
    try:
        record = read_json(folder / RECORD_NAME)
    except (OSError, InputError):
        # Without the record nobody knows what it generated.
        return card
    return without_generated(card, record)


def missing_parts(folder: str | os.PathLike[str]) -> list[str]:
    """What a folder lacks to be a whole release; an empty list for a whole one.

    Raises:
        InputError: an index or a configuration that cannot be read.
    """
    folder = Path(folder)
    missing = [name for name in ("config.json", RECORD_NAME, CARD_NAME) if not (folder / name).is_file()]
    missing += [name for name in weights_names(folder) if not (folder / name).is_file()]
    config = folder / "config.json"
    if not (folder / PROCESSOR_NAME).is_file():
        # timm keeps its preprocessing in config.json.
        holds_it = config.is_file() and "pretrained_cfg" in read_json(config)
        missing += [] if holds_it else [PROCESSOR_NAME]
    return missing


def weights_names(folder: Path) -> list[str]:
    """The names of the files that hold a folder's weights, there or not."""
    index = folder / WEIGHTS_INDEX_NAME
    return shards_of(index) if index.is_file() else [WEIGHTS_NAME]


def _check_model(model: nn.Module, image_processor: Any) -> None:
    weights = model.backbone if isinstance(model, PooledClassifier) else model
    if not isinstance(weights, PreTrainedModel) and not hasattr(model, "pretrained_cfg"):
        raise InputTypeError(
            f"Cannot save {type(model).__name__}: it is neither a transformers model nor made by timm.create_model."
        )
    check_rebuilds(model, image_processor)
    # A buffer may be a bound that is infinite by design; NaN is one nowhere.
    weights_of = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    bad = [
        name
        for name, value in model.state_dict().items()
        if value.is_floating_point() and (not value.isfinite().all() if name in weights_of else value.isnan().any())
    ]
    if bad:
        raise InputError(
            f"{len(bad)} tensors of the model hold NaN or infinite values, the first is {bad[0]}. Nothing was written. "
            "Take the last good checkpoint, or train again with a smaller λ or learning rate."
        )
    if isinstance(model, _OF_TRANSFORMERS) and image_processor is None and model.config.model_type != "timm_wrapper":
        raise InputError(
            "A transformers model is released with its image processor, and none was given. Pass image_processor=…, "
            "for example AutoImageProcessor.from_pretrained(base_model)."
        )


def _save_model(folder: Path, model: nn.Module, record: ImmunizationRecord, image_processor: Any) -> None:
    if isinstance(model, _OF_TRANSFORMERS):
        model.save_pretrained(folder)
        if image_processor is not None and model.config.model_type != "timm_wrapper":
            image_processor.save_pretrained(folder)
        return
    data_config = getattr(image_processor, "data_config", None)
    # safetensors takes no tensor in another layout, and none twice: weights that two modules share are written under
    # both names, and read back from both.
    weights = {name: value.contiguous().clone() for name, value in model.state_dict().items()}
    save_file(weights, folder / WEIGHTS_NAME, metadata={"format": "pt"})
    names = _class_names(model, record)
    write_timm_config(folder, model, model_config={"label_names": names} if names else None, data_config=data_config)


def _class_names(model: nn.Module, record: ImmunizationRecord) -> list[str] | None:
    pretrained = cast(Any, model.pretrained_cfg)
    for names in (record.primary.classes, pretrained.get("label_names")):
        if names and len(names) == model.num_classes:
            return list(names)
    return None
