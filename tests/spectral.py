"""Features and their eigenvalues by NumPy, and matrices of every shape and rank."""

import numpy as np
import torch

SHAPES = [(7, 4), (4, 7), (5, 5), (12, 3)]


def features(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, requires_grad=True)


def numpy_spectrum(x):
    return np.linalg.svd(x.detach().numpy(), compute_uv=False) ** 2


def with_singular_values(values, n, d, seed=0):
    """An n x d float64 matrix with the given singular values and random singular vectors."""
    rng = np.random.default_rng(seed)
    k = len(values)
    left = np.linalg.qr(rng.standard_normal((n, k)))[0]
    right = np.linalg.qr(rng.standard_normal((d, k)))[0]
    return torch.from_numpy((left * np.asarray(values)) @ right.T)


def zero_column(n, d, seed):
    features = torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    features[:, seed % d] = 0
    return features


CASES = {
    "wide": lambda seed: torch.randn(20, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)),
    "square": lambda seed: with_singular_values(np.geomspace(1e-3, 5, 30), 30, 30, seed),
    "tall": lambda seed: torch.randn(200, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)),
    "rank-deficient": lambda seed: with_singular_values(np.linspace(0.5, 3, 7), 25, 18, seed),
    "rank-deficient wide": lambda seed: with_singular_values(np.linspace(0.5, 3, 7), 12, 40, seed),
    "tied": lambda seed: with_singular_values([2, 2, 2, 0.5, 0.5], 16, 9, seed),
    "zero column": lambda seed: zero_column(60, 20, seed),
    "one column": lambda seed: torch.rand(9, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)),
}
