"""Features and their eigenvalues by NumPy, for the objectives."""

import numpy as np
import torch

SHAPES = [(7, 4), (4, 7), (5, 5), (12, 3)]


def features(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, requires_grad=True)


def numpy_spectrum(x):
    return np.linalg.svd(x.detach().numpy(), compute_uv=False) ** 2
