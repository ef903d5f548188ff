"""GELU in blocks, with the slope computed beside the value.

Differs from the definition in three ways. Blocks stay in cache, and every pass writes into a buffer at hand. dy/dx is
kept instead of parts of it, so backward is one product. And the exact form takes erf as tanh of an odd polynomial,

    erf(z) ≈ tanh(z P(z²))        P of degree 6, fitted at first use to artanh(erf z)/z on |z| <= 4.1; error 7e-8

NumPy has a fast tanh but no erf. That error is the size of float32's own rounding next to 1, as of PyTorch's
1 + erf(x/√2); the definition keeps more digits of the far left tail, where y is near 0. So float32 only; the tanh form
serves float64 too.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from minilm.kernels.cpu.blocks import spread_blocks, unserved
from minilm.memory import empty
from minilm.selection import Version, register

MINIMUM_SIZE = 1 << 14
BLOCK_BYTES = 1 << 18  # four arrays of this size are in use at a time
ERF_LIMIT = 4.1  # from here on erf is exactly 1 in float32; so is tanh(z P(z²)), as P goes on growing
TANH_SCALE, TANH_CUBIC = math.sqrt(2 / math.pi), 0.044715


class BlockedGeluCache(NamedTuple):
    """dy/dx: one array of x's size, and nothing else."""

    slope: np.ndarray  # (...)


def refuses(x: Any, approximate: str = "none") -> str | None:
    """Why a call is left to the definition; None if it is served."""
    if approximate not in ("none", "tanh"):
        return "approximate is unknown"
    return unserved(x, MINIMUM_SIZE, (np.float32,) if approximate == "none" else (np.float32, np.float64))


def blocked_gelu(
    x: np.ndarray, approximate: str = "none", *, cache: bool = True
) -> tuple[Any, BlockedGeluCache | None]:
    """y and, with a cache, dy/dx. x (...), y (...)."""
    flat = x.reshape(-1)  # (N,)
    y, slope = empty(flat.shape, x.dtype), empty(flat.shape, x.dtype) if cache else None
    block_of = _exact if approximate == "none" else _tanh

    def work(blocks: list[slice]) -> None:
        scratch = np.empty(max((block.stop - block.start for block in blocks), default=0), x.dtype)
        with np.errstate(over="ignore", invalid="ignore"):  # x² of the largest x is infinite, its tanh 1
            for block in blocks:
                n = block.stop - block.start
                block_of(flat[block], y[block], None if slope is None else slope[block], scratch[:n])

    spread_blocks(work, flat, BLOCK_BYTES)
    return y.reshape(x.shape), None if slope is None else BlockedGeluCache(slope.reshape(x.shape))


def blocked_gelu_backward(dy: np.ndarray, cache: BlockedGeluCache) -> np.ndarray:
    """dx = dy · slope."""
    dy, slope = dy.reshape(-1), cache.slope.reshape(-1)  # (N,)
    dx = empty(dy.shape, np.result_type(dy, slope))

    def work(blocks: list[slice]) -> None:
        for block in blocks:
            np.multiply(dy[block], slope[block], out=dx[block])

    spread_blocks(work, dx)
    return dx.reshape(cache.slope.shape)


@functools.cache
def erf_coefficients(degree: int = 6) -> tuple[float, ...]:
    """P, lowest power first: least squares at Chebyshev points, weighted by what an error of P does to erf."""
    nodes = np.cos(np.pi * (np.arange(600) + 0.5) / 600)
    z = ERF_LIMIT * (nodes * 0.5 + 0.5) + 1e-9
    erf = np.array([math.erf(value) for value in z])
    artanh = 0.5 * np.log((1 + erf) / np.array([math.erfc(value) for value in z]))
    weight = (1 - erf * erf) * z + 1e-9
    powers = np.vander(z * z, degree + 1, increasing=True)
    return tuple(np.linalg.lstsq(powers * weight[:, None], artanh / z * weight, rcond=None)[0].tolist())


def _exact(x: np.ndarray, y: np.ndarray, slope: np.ndarray | None, square: np.ndarray) -> None:
    """y = x Φ, slope = Φ + x φ with Φ = (1 + tanh(z P(z²)))/2, z = x/√2, and φ = exp(−x²/2)/√(2π)."""
    np.multiply(x, x, out=square)
    *lower, highest = (c * 0.5 ** (power + 0.5) for power, c in enumerate(erf_coefficients()))  # of x² instead of z²
    y[...] = highest
    for coefficient in reversed(lower):  # Horner
        y *= square
        y += coefficient
    y *= x
    np.tanh(y, out=y)
    y += 1
    y *= 0.5  # Φ
    if slope is not None:
        np.multiply(square, -0.5, out=slope)
        np.exp(slope, out=slope)
        slope *= x
        slope *= 1 / math.sqrt(2 * math.pi)
        slope += y
    y *= x


def _tanh(x: np.ndarray, y: np.ndarray, slope: np.ndarray | None, square: np.ndarray) -> None:
    """y = x Φ, slope = Φ (1 + 2 (1 − Φ) x u′); Φ = (1 + tanh u)/2, u = x (b + a x²), x u′ = x (b + 3a x²)."""
    a, b = TANH_CUBIC * TANH_SCALE, TANH_SCALE
    np.multiply(x, x, out=square)
    np.multiply(square, a, out=y)
    y += b
    y *= x
    np.tanh(y, out=y)
    y += 1
    y *= 0.5  # Φ
    if slope is not None:
        square *= 6 * a
        square += 2 * b
        square *= x  # 2 x u′
        np.subtract(1, y, out=slope)
        slope *= square
        slope += 1
        slope *= y
    y *= x


register("gelu", Version("cpu.blocked", blocked_gelu, blocked_gelu_backward, BlockedGeluCache, refuses))
