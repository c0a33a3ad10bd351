"""A backbone without a head, and the linear head that it is given: its pooled output becomes the features."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import MODEL_MAPPING, AutoModel, PreTrainedModel

from hf_immunize.errors import InputError
from hf_immunize.models.checkpoints import Checkpoint
from hf_immunize.models.forward import check_inputs, forward, unwrap
from hf_immunize.models.head import find_head

__all__ = ["HEAD_NAME", "PooledClassifier", "head_beside", "is_backbone", "load_backbone", "with_head"]

#: Where the head stands beside the weights of the backbone, which load by themselves.
HEAD_NAME = "head.safetensors"


class PooledClassifier(nn.Module):
    """A linear head on the pooled output of a backbone: its ``pooler_output``, else the mean over its positions.

    Args:
        backbone: takes images (n, C, H, W) and gives features (n, d), maps (n, d, h, w), tokens (n, t, d), or an output
            of transformers that holds them.
        n_features: their width d.
        n_classes: width of the head.
    """

    def __init__(self, backbone: nn.Module, n_features: int, n_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = nn.Linear(n_features, n_classes)

    @property
    def config(self) -> Any:
        """Of the backbone, where it has one; names of classes stand in it."""
        return getattr(self.backbone, "config", None)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes) of images (n, C, H, W)."""
        return self.classifier(_pooled(forward(self.backbone, pixel_values)))

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes the backbone in the form of transformers, and the head beside it."""
        cast(PreTrainedModel, self.backbone).save_pretrained(folder)
        save_file(
            {name: one.contiguous() for name, one in self.classifier.state_dict().items()}, Path(folder) / HEAD_NAME
        )


def with_head(model: nn.Module, classes: Sequence[str]) -> nn.Module:
    """A classifier out of a model without a head; the head is new and has to be fitted.

    Args:
        model: of timm with ``num_classes=0`` (changed in place), a base model or an image tower of transformers, or a
            module that gives one tensor.
        classes: names, in the order of the labels.

    Raises:
        InputError: it has a head already, takes more than images, or gives nothing that could be pooled.
    """
    model = unwrap(model)
    check_inputs(model)
    kind = type(model).__name__
    if hasattr(model, "reset_classifier"):
        if getattr(model, "num_classes", 0):
            raise InputError(
                f"{kind} has a head of {model.num_classes} classes. Replace it: model.reset_classifier(n)."
            )
        cast(Any, model).reset_classifier(len(classes))
        cast(Any, model).pretrained_cfg["label_names"] = list(classes)
        return model
    own = next(model.parameters())
    images = _images(model, own)
    layer = _last_linear(model, images)
    if layer is not None:
        raise InputError(f"{kind} has a head already: {layer}. Put a new layer in its place yourself.")
    output = _output(model, images)
    classifier = PooledClassifier(model, _pooled(output).shape[1], len(classes)).to(own.device, own.dtype)
    if classifier.config is not None:
        classifier.config.num_labels = len(classes)
        classifier.config.id2label = dict(enumerate(classes))
        classifier.config.label2id = {name: index for index, name in enumerate(classes)}
    return classifier.train(model.training)


def is_backbone(config: Any) -> bool:
    """Whether transformers has a base model of this configuration that takes images alone."""
    kind = MODEL_MAPPING.get(type(config), None)
    modalities = getattr(kind, "input_modalities", ())
    return getattr(kind, "main_input_name", None) == "pixel_values" and "text" not in modalities


def head_beside(found: Checkpoint, config: Any, token: str | bool | None) -> Path | None:
    """The head that :class:`PooledClassifier` saved; looked for only beside what is no classifier itself."""
    if any(name.endswith("ForImageClassification") for name in config.architectures or ["ForImageClassification"]):
        return None
    return found.download(HEAD_NAME, token) if HEAD_NAME in found.files else None


def load_backbone(
    source: str, head: Path | None, classes: Sequence[str] | None, **options: Any
) -> tuple[nn.Module, bool]:
    """A base model of transformers with the head that stands beside it, or with a new one, and whether it is new.

    Args:
        source: what ``from_pretrained`` takes.
        head: the file of the head, where there is one.
        classes: names of the classes of a new head; those of the file's head otherwise.
        options: of ``from_pretrained``.
    """
    backbone = AutoModel.from_pretrained(source, use_safetensors=True, dtype=torch.float32, **options).eval()
    stored = None if head is None else load_file(head)
    if classes is None:
        names = backbone.config.id2label
        classes = [str(names[index]) for index in sorted(names)]
    classifier = with_head(backbone, classes)
    layer = cast(nn.Linear, classifier.get_submodule("classifier"))
    fits = stored is not None and stored["weight"].shape == layer.weight.shape
    if fits:
        layer.load_state_dict(cast("dict[str, torch.Tensor]", stored))
    return classifier, not fits


def _images(model: nn.Module, own: nn.Parameter) -> torch.Tensor:
    config = getattr(model, "config", None)
    size = getattr(config, "image_size", None) or 224
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    channels = getattr(config, "num_channels", None) or 3
    return torch.zeros(1, channels, height, width, dtype=own.dtype, device=own.device)


def _last_linear(model: nn.Module, images: torch.Tensor) -> str | None:
    try:
        return find_head(model, images).names[0]
    except InputError:
        return None


def _output(model: nn.Module, images: torch.Tensor) -> Any:
    training = model.training
    try:
        with torch.no_grad():
            return forward(model.eval(), images)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"{type(model).__name__} does not run on images of shape {tuple(images.shape)}, so that the width of its "
            f"features is not known: {error}"
        ) from error
    finally:
        model.train(training)


def _pooled(output: Any) -> torch.Tensor:
    """The pooled output as (n, d)."""
    if isinstance(output, Mapping):
        pooled = output.get("pooler_output")
        output = output.get("last_hidden_state") if pooled is None else pooled
    if not isinstance(output, torch.Tensor) or output.ndim not in (2, 3, 4):
        raise InputError(
            f"Nothing could be pooled out of {type(output).__name__}: give a model that returns one tensor."
        )
    if output.ndim == 4:
        return output.flatten(2).mean(2)
    return output.mean(1) if output.ndim == 3 else output
