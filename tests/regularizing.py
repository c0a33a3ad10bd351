"""Features for the regularizers, and their definitions in NumPy and as autograd differentiates them."""

import numpy as np
import pytest
import torch

from hf_immunize.spectra.regularizers import features_r_ill, features_r_well

FORMS = [(features_r_ill, False), (features_r_ill, True), (features_r_well, False), (features_r_well, True)]
NAMES = ["raw ill", "scale-free ill", "raw well", "scale-free well"]
every_form = pytest.mark.parametrize(("function", "scale_free"), FORMS, ids=NAMES)
SHAPES = {"wide": (6, 11), "square": (8, 8), "tall": (15, 5)}
every_shape = pytest.mark.parametrize(("n", "d"), SHAPES.values(), ids=SHAPES)


def random_features(n, d, seed, rank=None):
    """float64 rows with singular values spread over a factor of ten or so."""
    rng = np.random.default_rng(seed)
    k = rank or min(n, d)
    left = np.linalg.qr(rng.standard_normal((n, k)))[0]
    right = np.linalg.qr(rng.standard_normal((d, k)))[0]
    return torch.from_numpy((left * rng.uniform(0.3, 3.0, k)) @ right.T)


def reference(features, function, scale_free):
    """The definition on the non-zero singular values of S = XᵀX, in NumPy."""
    matrix = features.detach().double().numpy()
    sigma = np.linalg.svd(matrix, compute_uv=False)[: np.linalg.matrix_rank(matrix)] ** 2
    k = len(sigma)
    if scale_free:
        mean = np.mean(sigma)
        if function is features_r_well:
            return np.log10(mean) - np.mean(np.log10(sigma))
        return np.mean(np.log10(1 + 1000 * sigma / mean))
    total = np.sum(sigma**2)
    if function is features_r_well:
        return sigma[0] ** 2 / 2 - total / (2 * k)
    return 1 / (total / (2 * k) - sigma[-1] ** 2 / 2)


def through_svdvals(features, function, scale_free, rank):
    """The same definitions as autograd differentiates them."""
    sigma = torch.linalg.svdvals(features)[:rank].square()
    if scale_free:
        shares = sigma / sigma.mean()
        return -shares.log10().mean() if function is features_r_well else (1 + 1000 * shares).log10().mean()
    total = sigma.square().sum()
    if function is features_r_well:
        return sigma[0].square() / 2 - total / (2 * rank)
    return 1 / (total / (2 * rank) - sigma[-1].square() / 2)


def gradient(function, features, **options):
    features = features.detach().clone().requires_grad_()
    value = function(features, **options)
    value.backward()
    return value.detach(), features.grad
