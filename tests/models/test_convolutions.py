"""Convolutions in float64 against torch's own."""

from __future__ import annotations

import pytest
import timm
import torch

from hf_immunize.models.convolutions import Float64Convolutions, _convolved


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": 1},
        {"padding": (2, 0), "dilation": (2, 1), "stride": (1, 3)},
        {"groups": 6, "padding": 1},
        {"bias": True, "padding": 1, "stride": 2},
        {"groups": 6, "bias": True, "dilation": 2},
    ],
)
def test_a_convolution_is_what_torch_makes_of_it(options):
    generator = torch.Generator().manual_seed(0)
    images, bias = (torch.randn(shape, dtype=torch.float64, generator=generator) for shape in ((5, 6, 9, 11), (6,)))
    kernel = torch.randn(6, 6 // options.get("groups", 1), 3, 2, dtype=torch.float64, generator=generator)
    options = options | ({"bias": bias} if "bias" in options else {})
    found = _convolved(images, kernel, **options)
    torch.testing.assert_close(found, torch.conv2d(images, kernel, **options), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["resnet10t", "tf_efficientnet_lite0", "vit_tiny_patch16_224", "resnext26ts"])
def test_a_model_gives_what_it_gives_without(name):
    options = {"img_size": 32} if name.startswith("vit") else {}
    torch.manual_seed(0)
    model = timm.create_model(name, **options).double().eval()
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = model(images)
        with Float64Convolutions():
            torch.testing.assert_close(model(images), expected, rtol=1e-9, atol=1e-12)


def test_what_it_cannot_do_better_is_left_to_torch():
    kernel = torch.ones(4, 2, 1, 1).double()
    assert _convolved(torch.ones(1, 4, 2, 2).double(), kernel, groups=2) is None
    assert _convolved(torch.ones(1, 2, 2, 2), kernel.float()) is None
    assert _convolved(torch.ones(1, 2, 2, 2).double(), kernel, padding="same") is None
    images = torch.ones(1, 2, 2, 2).double().requires_grad_()
    with Float64Convolutions():
        torch.conv2d(images, kernel).sum().backward()
    assert (images.grad == 4).all()
