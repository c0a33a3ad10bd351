"""Convolutions in float64 on a CPU as matrix products: torch's own take each image, and each channel, by itself."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

__all__ = ["Float64Convolutions"]


class Float64Convolutions(TorchFunctionMode):
    """Inside this context convolutions of float64 images on a CPU are sums of matrix products, one a kernel position.

    Values differ in rounding alone. Groups other than one, or one a channel, are left to torch, and so is all that
    needs a gradient.

    Example:
        >>> images, kernel = torch.ones(1, 2, 4, 4).double(), torch.ones(3, 2, 3, 3).double()
        >>> with torch.no_grad(), Float64Convolutions():
        ...     torch.conv2d(images, kernel)[0, 0, 0, 0].item()
        18.0
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.conv2d and not torch.is_grad_enabled():
            found = _convolved(*args, **(kwargs or {}))
            if found is not None:
                return found
        return func(*args, **(kwargs or {}))


def _convolved(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> torch.Tensor | None:
    depthwise = groups == input.shape[-3] == len(weight)
    if input.dtype != torch.float64 or input.device.type != "cpu" or input.ndim != 4 or isinstance(padding, str):
        return None
    if groups != 1 and not depthwise:
        return None
    stride, padding, dilation = (_pair(one) for one in (stride, padding, dilation))
    images = F.pad(input.permute(0, 2, 3, 1), (0, 0, padding[1], padding[1], padding[0], padding[0]))
    spread = [step * (size - 1) for step, size in zip(dilation, weight.shape[2:], strict=True)]
    height, width = ((images.shape[1 + axis] - spread[axis] - 1) // stride[axis] + 1 for axis in (0, 1))
    if height < 1 or width < 1:
        return None
    shape = (len(images), height, width, len(weight))
    total = images.new_zeros(shape) if bias is None else bias.expand(shape).contiguous()
    # Laid out for the products once, not for each of them.
    kernels = weight.permute(2, 3, 1, 0).contiguous()
    for down in range(weight.shape[2]):
        for right in range(weight.shape[3]):
            top, left = down * dilation[0], right * dilation[1]
            part = images[
                :,
                top : top + stride[0] * (height - 1) + 1 : stride[0],
                left : left + stride[1] * (width - 1) + 1 : stride[1],
            ]
            if depthwise:
                total.addcmul_(part, kernels[down, right, 0])
            else:
                total.view(-1, len(weight)).addmm_(part.flatten(0, 2), kernels[down, right])
    return total.permute(0, 3, 1, 2)


def _pair(given: Any) -> tuple[int, int]:
    return (given, given) if isinstance(given, int) else (given[0], given[-1])
