"""A classifier by the name users give it: a Hub id with ``@revision``, a timm id, or a folder."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from torch import nn
from transformers import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
)

from hf_immunize.data.preprocessing import PROCESSOR_NAME, TimmImageProcessor
from hf_immunize.errors import InputError, MissingPackageError, UserError
from hf_immunize.hub import hub_errors
from hf_immunize.models import untrusted
from hf_immunize.models.checkpoints import Checkpoint, checkpoint_license, find_checkpoint
from hf_immunize.models.class_names import given_names, named_in
from hf_immunize.models.forward import check_inputs
from hf_immunize.models.loaded import LoadedModel
from hf_immunize.models.new_heads import draw_head, names_to_keep
from hf_immunize.models.pooled import PooledClassifier, head_beside, is_backbone, load_backbone
from hf_immunize.models.refusals import no_head, no_safetensors, refusal_of

__all__ = ["load_model"]

logger = logging.getLogger(__name__)


def load_model(
    name_or_path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    num_labels: int | None = None,
    labels: Sequence[str] | Mapping[int, str] | None = None,
    token: str | bool | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Loads an image classifier and its image processor from safetensors.

    Args:
        name_or_path: a Hub id (``user/name``, ``user/name@revision``, ``timm/…``, ``hf-hub:…``), a subfolder of a
            repository (``user/name/sub/folder@revision``), a name that timm has pretrained weights for, or a folder in
            the form of transformers or of timm.
        revision: branch, tag or commit; resolved to a commit hash, which the result carries.
        num_labels: number of classes; a head with another number is replaced by a new one.
        labels: names of the classes, in the order of the labels. A head that has other classes by its names is replaced
            by a new one; one that has these in another order keeps its order, and one without names takes these.
        token: of the Hub; by default the one that is logged in.
        trust_remote_code: run the model's own code from the Hub; only for code that you have read.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no such id, private or gated, no such revision, no image classifier, no safetensors, or no
            classification head in the checkpoint while ``num_labels`` is not given.
        ConnectionError: the Hub cannot be reached.
    """
    names = given_names(labels)
    if names is not None:
        if num_labels is not None and num_labels != len(names):
            raise InputError(f"num_labels is {num_labels} and labels names {len(names)} classes. Give one of the two.")
        num_labels = len(names)
    if num_labels is not None and (isinstance(num_labels, bool) or not isinstance(num_labels, int) or num_labels < 1):
        raise InputError(f"num_labels must be a positive whole number, got {num_labels!r}.")
    found = find_checkpoint(name_or_path, revision, token)
    config = untrusted.read_json(found.config)
    if found.timm_only and not _is_timm(config):
        raise InputError(f"{found.name} is not in timm's form. Leave the hf-hub: in front of it away.")
    if "adapter_config.json" in found.files:
        raise InputError(f"{found.name} holds a PEFT adapter beside the model. Merge it and save that, or remove it.")
    weights = found.weights(token)
    shapes = untrusted.read_shapes(weights) if weights else None
    if shapes is not None:
        untrusted.check_config(config, shapes, found.name)
    try:
        if _is_timm(config):
            loaded = _load_timm(found, config, num_labels, names, shapes)
        else:
            loaded = _load_transformers(found, num_labels, names, token, trust_remote_code, shapes)
    except (UserError, MemoryError):
        raise
    except Exception as error:
        # The libraries say in a hundred ways that a file of a stranger is not what they expect.
        raise InputError(
            f"{found.name} cannot be loaded ({untrusted.one_line(error)}). Its configuration or its weights "
            f"({found.source}) are broken, or need a newer library."
        ) from error
    loaded.model.eval()
    loaded.license = loaded.license or checkpoint_license(found, token)
    return loaded


def _is_timm(config: dict[str, Any]) -> bool:
    return "architecture" in config and "model_type" not in config and "architectures" not in config


def _load_timm(
    found: Checkpoint,
    config: dict[str, Any],
    num_labels: int | None,
    names: list[str] | None,
    shapes: untrusted.Shapes | None,
) -> LoadedModel:
    folder = found.config.parent
    # Without a model.safetensors timm would fall back to a pickled file without a word.
    if shapes is None or untrusted.WEIGHTS_NAME not in found.files:
        raise InputError(no_safetensors(found.name))
    pretrained = config.get("pretrained_cfg", config)
    if pretrained.get("custom_load"):
        raise InputError(f"{found.name} asks for weights in a form of its own (custom_load), which is not read.")
    saved = config.get("num_classes", pretrained.get("num_classes"))
    if not saved and num_labels is None:
        raise InputError(no_head(found.name, "its checkpoint holds features only"))
    given = (config.get("model_args") or {}) | {"num_classes": saved or 0}
    # An architecture that is not known is told below.
    with contextlib.suppress(RuntimeError):
        untrusted.check_fits(lambda: timm.create_model(config["architecture"], **given), shapes, found.name)
    try:
        # timm gives its models attributes of their own.
        model: Any = timm.create_model(
            f"local-dir:{folder}", pretrained=True, num_classes=saved if num_labels is None else num_labels
        )
    except RuntimeError as error:
        if "Unknown model" not in str(error):
            raise
        raise InputError(
            f"timm {timm.__version__} does not know the architecture of {found.name} ({config['architecture']!r}). "
            "Upgrade it: pip install -U timm."
        ) from error
    new_head = num_labels is not None and num_labels != saved
    if names is not None and not new_head:
        kept = names_to_keep(_names_of(None, model.pretrained_cfg), names, found.name)
        new_head, names = kept is None, kept or names
        if new_head:
            model.reset_classifier(num_labels)
    if names is not None:
        model.pretrained_cfg["label_names"] = names
    # A saved model must not remember where on this machine its weights once lay.
    model.pretrained_cfg.pop("file", None)
    processor = TimmImageProcessor.from_model(model)
    untrusted.check_processor(processor, found.name)
    return LoadedModel(
        model=model,
        image_processor=processor,
        name=found.name,
        revision=found.revision,
        library="timm",
        architecture=config["architecture"],
        kind=found.kind,
        new_head=new_head,
        n_channels=processor.n_channels,
        license=model.pretrained_cfg.get("license"),
    )


def _load_transformers(
    found: Checkpoint,
    num_labels: int | None,
    names: list[str] | None,
    token: str | bool | None,
    trust_remote_code: bool,
    shapes: untrusted.Shapes | None,
) -> LoadedModel:
    shared: dict[str, Any] = {}
    if found.kind == "hub":
        shared = {"revision": found.revision, "token": token, "local_files_only": found.offline}
        shared |= {"subfolder": found.subfolder} if found.subfolder else {}
    shared["trust_remote_code"] = trust_remote_code
    with hub_errors(found.name, found.revision):
        try:
            config = AutoConfig.from_pretrained(found.source, **shared)
            stored = head_beside(found, config, token)
            classifies = type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
            pooled = stored is not None or (not classifies and is_backbone(config))

            def make(one: Any) -> nn.Module:
                kind = AutoModel if pooled else AutoModelForImageClassification
                return kind.from_config(one, trust_remote_code=trust_remote_code)

            if shapes is not None:
                untrusted.check_fits(lambda: make(config), shapes, found.name)
            others = False
            if names is not None and (stored is not None or not pooled) and config.num_labels == len(names):
                kept = names_to_keep(_names_of(config), names, found.name)
                others, names = kept is None, kept or names
            if pooled:
                if stored is None and num_labels is None:
                    raise InputError(no_head(found.name, "its checkpoint holds features only"))
                stored = None if others else stored
                classes = names or (None if num_labels is None else [str(index) for index in range(num_labels)])
                model, new_head = load_backbone(found.source, stored, classes, **shared)
            else:
                model, info = AutoModelForImageClassification.from_pretrained(
                    found.source,
                    dtype=torch.float32,
                    use_safetensors=True,
                    ignore_mismatched_sizes=num_labels is not None,
                    output_loading_info=True,
                    **_head_of(num_labels, names),
                    **shared,
                )
                new_head = _check_new_parameters(model, info, found.name, num_labels)
                if others and not new_head:
                    draw_head(model, make, model.config)
                    new_head = True
        except UserError:
            raise
        except ImportError as error:
            raise MissingPackageError(f"{found.name} needs a package that is not installed: {error}") from error
        except (ValueError, OSError) as error:
            explained = refusal_of(error, found.name)
            if explained is None:
                raise
            raise InputError(explained) from error
    check_inputs(model)
    return LoadedModel(
        model=model,
        image_processor=_image_processor(found, shared),
        name=found.name,
        revision=found.revision,
        library="transformers",
        architecture=type(model.backbone if isinstance(model, PooledClassifier) else model).__name__,
        kind=found.kind,
        new_head=new_head,
        n_channels=getattr(model.config, "num_channels", None) or 3,
    )


def _head_of(num_labels: int | None, names: list[str] | None) -> dict[str, Any]:
    """The head that is asked for, as ``from_pretrained`` takes it."""
    if names is not None:
        return {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    return {} if num_labels is None else {"num_labels": num_labels}


def _names_of(config: Any, timm_config: Any = None) -> list[str] | None:
    try:
        return named_in(config, timm_config)
    except InputError:
        # Names that contradict each other are mended by those that are given.
        return None


def _check_new_parameters(model: nn.Module, info: dict[str, Any], name: str, num_labels: int | None) -> bool:
    """True where the head is new; raises where it is new and nobody asked for that."""
    mismatched = {entry if isinstance(entry, str) else entry[0] for entry in info.get("mismatched_keys") or ()}
    new = sorted(set(info.get("missing_keys") or ()) | mismatched)
    body = f"{model.base_model_prefix}."
    # A timm wrapper has its head inside the base model; its configuration has already said whether there is one.
    in_head = [key for key in new if not key.startswith(body) or body == "timm_model."]
    in_body = [key for key in new if key not in in_head]
    if in_body:
        warnings.warn(
            f"{name}: {len(in_body)} parameters of the backbone are not in the checkpoint and were initialised at "
            f"random ({', '.join(in_body[:3])}{', …' if len(in_body) > 3 else ''}).",
            stacklevel=4,
        )
    if in_head and num_labels is None:
        raise InputError(no_head(name, f"{', '.join(in_head[:3])} would be initialised at random"))
    return bool(in_head)


def _image_processor(found: Checkpoint, shared: dict[str, Any]) -> Any:
    if PROCESSOR_NAME in found.above - found.files:
        logger.warning("%s holds no image processor: that at the root of %s is taken.", found.name, found.source)
        shared = {**shared, "subfolder": ""}
    try:
        processor = AutoImageProcessor.from_pretrained(found.source, **shared)
        untrusted.check_processor(processor, found.name)
        return processor
    except (OSError, ValueError):
        if PROCESSOR_NAME in found.files | found.above:
            raise
        warnings.warn(
            f"{found.name} holds no image processor (preprocessor_config.json). Pass one yourself before training or "
            "evaluating on images.",
            stacklevel=4,
        )
        return None
