"""Tables of two tasks, and κ and RIR by NumPy, for linear models."""

import copy

import numpy as np


def data(n_p=40, n_h=50, d=6, seed=0, log_scale=1.0):
    generator = np.random.default_rng(seed)
    scales = np.exp(log_scale * generator.standard_normal((2, d)))
    x_p, x_h = (generator.standard_normal((n, d)) * s for n, s in zip((n_p, n_h), scales, strict=True))
    return x_p, generator.standard_normal(n_p), x_h, generator.standard_normal(n_h)


def kappa(x):
    values = np.linalg.svd(x, compute_uv=False) ** 2
    return values[0] / values[-1]


def numpy_rir(theta, x_p, x_h, start=None):
    start = np.eye(*theta.shape) if start is None else start
    return kappa(x_h @ theta) / kappa(x_h @ start) / (kappa(x_p @ theta) / kappa(x_p @ start))


def leaves(value, path=()):
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in parts:
        yield from leaves(one, (*path, key))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path, value


def changed(values, path, to):
    twin = copy.deepcopy(values)
    inner = twin
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to
    return twin
