"""Whether a classifier, saved, would load again as it is: of the same layers, and its pictures prepared alike."""

from __future__ import annotations

import copy
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import timm
import torch
from torch import nn
from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, PreTrainedModel

from hf_immunize.errors import InputError
from hf_immunize.models.forward import unwrap
from hf_immunize.models.pooled import PooledClassifier

__all__ = ["check_rebuilds", "write_timm_config"]

_SHOWN = 3


def check_rebuilds(model: nn.Module, image_processor: Any = None) -> None:
    """Builds the model anew from its configuration, without memory for its numbers, and compares layers and shapes.

    A head that was put in by hand, a parametrisation (weight norm) or a layer that was taken out or exchanged (an
    activation, a pooling, a stride) stand in no configuration: whoever loads such a model gets another one.

    Args:
        model: of transformers or timm, or either's backbone with a head; other modules have no configuration, and pass.
        image_processor: that it was trained and measured with. A timm model is saved with timm's preprocessing alone.

    Raises:
        InputError: with the weights or layers that differ; or an image processor that would not be saved.
    """
    model = unwrap(model)
    model = model.backbone if isinstance(model, PooledClassifier) else model
    if not isinstance(model, PreTrainedModel) and not hasattr(model, "pretrained_cfg"):
        return
    of_timm = not isinstance(model, PreTrainedModel)
    if of_timm and image_processor is not None and not hasattr(image_processor, "data_config"):
        raise InputError(
            f"{type(model).__name__} is saved with timm's preprocessing, and {type(image_processor).__name__} is of "
            "another kind: whoever loads the model would prepare images otherwise. Take "
            "hf_immunize.data.preprocessing.TimmImageProcessor.from_model(model)."
        )
    with tempfile.TemporaryDirectory() as folder, torch.device("meta"):
        if isinstance(model, PreTrainedModel):
            again: nn.Module = _kind_that_loads(model)(copy.deepcopy(model.config))
        else:
            try:
                write_timm_config(Path(folder), model)
            except (TypeError, ValueError) as error:
                raise InputError(
                    f"{type(model).__name__} was made with arguments that no configuration can hold ({error}), so that "
                    "it would not load again as it is. Name them in words, as timm takes them (act_layer='silu'); as "
                    "it is it can be trained and measured (ImmunizationTrainer), and not released."
                ) from error
            again = timm.create_model(f"local-dir:{folder}", num_classes=cast(int, model.num_classes))
    own = [name for name in dir(type(again)) if name.startswith("forward")]
    own = [name for name in own if getattr(type(model), name, None) is not getattr(type(again), name)]
    if own:
        raise InputError(
            f"{type(model).__name__} has a {own[0]} of its own, and whoever loads it gets {type(again).__name__}, "
            "which computes otherwise. It can be trained and measured (ImmunizationTrainer), and not released."
        )
    for what, of in (("weights", _shapes), ("layers", _kinds)):
        held, described = of(model), of(again)
        others = [name for name in {**held, **described} if held.get(name) != described.get(name)]
        if not others:
            continue
        told = "; ".join(f"{one}: {held.get(one, 'none')}, {described.get(one, 'none')}" for one in others[:_SHOWN])
        raise InputError(
            f"{type(model).__name__} holds {len(others)} {what} that its configuration describes otherwise (name: "
            f"held, described): {told}{'; …' if len(others) > _SHOWN else ''}. Saved, it would not load again as it "
            "is. Give it a head of another width by num_labels=… with ignore_mismatched_sizes=True (timm: "
            "model.reset_classifier(n)), take parametrisations off (remove_parametrizations) and change layers by the "
            "configuration; a model of your own kind can be trained and measured (ImmunizationTrainer), and not "
            "released."
        )


def write_timm_config(folder: Path, model: nn.Module, **options: Any) -> None:
    """Writes the ``config.json`` from which timm, and transformers' wrapper of it, build a timm model again.

    Args:
        folder: that is there.
        model: made by timm.
        options: of ``timm.models.save_for_hf``: ``model_config``, ``data_config``.
    """
    written: Any = copy.copy(model)
    written.state_dict = dict
    with tempfile.TemporaryDirectory() as aside:
        timm.models.save_for_hf(written, aside, safe_serialization=True, **options)
        config = json.loads((Path(aside) / "config.json").read_text(encoding="utf-8"))
    # transformers passes the number of classes on its own and fails when model_args holds it too; timm reads it from
    # the top of the file. Without it here, one config.json serves both.
    config.get("model_args", {}).pop("num_classes", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _kind_that_loads(model: PreTrainedModel) -> Callable[[Any], nn.Module]:
    """The class as which a stranger loads what is saved of a model: never a subclass that only its author has."""
    kind: Any = type(model)
    # Code that travels with a model lies in `transformers_modules`.
    if kind.__module__.startswith("transformers") or kind._auto_class is not None:
        return kind
    known: Any = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING.get(type(model.config), None)
    if known is None:
        raise InputError(
            f"{kind.__name__} is a class of your own, which whoever loads a release does not have. Let its code travel "
            f"with it ({kind.__name__}.register_for_auto_class('AutoModelForImageClassification'), and its "
            "configuration's); as it is it can be trained and measured (ImmunizationTrainer), and not released."
        )
    return known[0] if isinstance(known, (list, tuple)) else known


def _kinds(model: nn.Module) -> dict[str, str]:
    """What each layer is that computes anything once trained; BatchNorm over processes is what it was."""
    return {
        name: f"{re.sub('^Sync|(?<=BatchNorm)[123]d', '', type(one).__name__)}({one.extra_repr()})"
        for name, one in model.named_modules()
        # A dropout is often taken out by putting an identity there.
        if name and "drop" not in type(one).__name__.lower() and type(one) is not nn.Identity
    }


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}
