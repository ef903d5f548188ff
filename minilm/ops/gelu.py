"""The Gaussian error linear unit.

    gelu(x) = x Φ(x)                      Φ: the normal distribution function
            ≈ x (1 + tanh u)/2            u = √(2/π) (x + 0.044715 x³)          approximate="tanh"

[Hendrycks & Gimpel 2016, eq. 1-2]
"""

from __future__ import annotations

import math
from typing import NamedTuple

from minilm.backend import Array, array_namespace, floating_namespace
from minilm.ops.erf import erfc
from minilm.selection import backward_of, op

TANH_SCALE = math.sqrt(2 / math.pi)
TANH_CUBIC = 0.044715


class GeluCache(NamedTuple):
    """x is borrowed; one array is kept beside it, so that erfc is not evaluated twice. φ is cheaper to recompute."""

    x: Array  # (...)
    cdf: Array  # (...)  Φ(x)


class GeluTanhCache(NamedTuple):
    """x is borrowed; tanh u is kept, the rest of the slope is a polynomial in x and it."""

    x: Array  # (...)
    tanh_u: Array  # (...)


@op
def gelu(x: Array, approximate: str = "none") -> tuple[Array, GeluCache | GeluTanhCache]:
    """y = x Φ(x). x (...), y (...). approximate: "none" (exact) or "tanh" (GPT-2's formula, off by at most 5e-4).

    Φ(x) = erfc(−x/√2)/2 and not (1 + erf(x/√2))/2: the left tail keeps its digits.
    """
    xp = floating_namespace(x)
    if approximate == "none":
        cdf = 0.5 * erfc(x * -math.sqrt(0.5))
        return x * cdf, GeluCache(x, cdf)
    if approximate == "tanh":
        tanh_u = xp.tanh(TANH_SCALE * (x + TANH_CUBIC * (x * x * x)))
        return 0.5 * x * (1 + tanh_u), GeluTanhCache(x, tanh_u)
    raise ValueError(f'gelu: approximate={approximate!r} is unknown; choose "none" or "tanh"')


@backward_of(gelu)
def gelu_backward(dy: Array, cache: GeluCache | GeluTanhCache) -> Array:
    """dx = dy (Φ(x) + x φ(x)) with the normal density φ = Φ′ = exp(−x²/2)/√(2π).

    With tanh: dx = dy ((1 + tanh u)/2 + x (1 − tanh² u)/2 · u′),  u′ = √(2/π) (1 + 3 · 0.044715 x²).
    """
    xp = array_namespace(dy)
    x = cache.x
    if isinstance(cache, GeluCache):
        density = xp.exp(-0.5 * (x * x)) * (1 / math.sqrt(2 * math.pi))
        return dy * (cache.cdf + x * density)
    du = TANH_SCALE * (1 + 3 * TANH_CUBIC * (x * x))
    return dy * (0.5 * (1 + cache.tanh_u) + 0.5 * x * (1 - cache.tanh_u * cache.tanh_u) * du)
