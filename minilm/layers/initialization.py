"""How parameters are drawn. All on the host, in float64, then cast: the same seed gives the same weights everywhere."""

from __future__ import annotations

import numpy as np


def uniform(rng: np.random.Generator, shape: tuple[int, ...], bound: float, dtype: str = "float32") -> np.ndarray:
    """U(−bound, bound)."""
    return rng.uniform(-bound, bound, shape).astype(dtype)


def normal(rng: np.random.Generator, shape: tuple[int, ...], std: float, dtype: str = "float32") -> np.ndarray:
    """N(0, std²)."""
    return (std * rng.standard_normal(shape)).astype(dtype)


def xavier_uniform(rng: np.random.Generator, shape: tuple[int, int], dtype: str = "float32") -> np.ndarray:
    """U(−a, a) with a = √(6 / (fan in + fan out)): keeps the variance in both directions. [Glorot & Bengio 2010]"""
    return uniform(rng, shape, (6 / sum(shape)) ** 0.5, dtype)


def orthogonal(rng: np.random.Generator, shape: tuple[int, int], dtype: str = "float32") -> np.ndarray:
    """A matrix with orthonormal rows or columns, whichever are fewer. [Saxe et al. 2014]

    The QR decomposition of a Gaussian matrix, columns signed by R's diagonal so that the draw is uniform.
    """
    rows, columns = shape
    q, r = np.linalg.qr(rng.standard_normal((max(shape), min(shape))))
    q = q * np.sign(np.diag(r))
    return np.ascontiguousarray(q if rows >= columns else q.T).astype(dtype)
