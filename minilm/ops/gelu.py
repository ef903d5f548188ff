"""The Gaussian error linear unit.

    gelu(x) = x Φ(x)                      Φ: the normal distribution function, Φ′ = φ = exp(−x²/2)/√(2π)

    approximate="tanh":  Φ ≈ (1 + tanh u)/2,  u = √(2/π) (x + 0.044715 x³),  hence  φ = 2 Φ (1 − Φ) u′

[Hendrycks & Gimpel 2016, eq. 1-2]
"""

import math
from typing import NamedTuple

from minilm.backend import Array, array_namespace, floating_namespace
from minilm.checks import one_of
from minilm.ops.erf import erfc
from minilm.selection import backward_of, op

TANH_SCALE = math.sqrt(2 / math.pi)
TANH_CUBIC = 0.044715


class GeluCache(NamedTuple):
    """x is borrowed; one array is kept beside it, so that erfc or tanh is not evaluated twice."""

    x: Array  # (...)
    cdf: Array  # (...)  Φ(x)
    approximate: str


@op
def gelu(x: Array, approximate: str = "none") -> tuple[Array, GeluCache]:
    """y = x Φ(x). x (...), y (...). approximate: "none" (exact) or "tanh" (GPT-2's formula, off by at most 5e-4).

    Φ(x) = erfc(−x/√2)/2 and not (1 + erf(x/√2))/2: the left tail keeps its digits.
    """
    xp = floating_namespace(x)
    one_of("gelu: approximate", approximate, ("none", "tanh"))
    if approximate == "none":
        cdf = 0.5 * erfc(x * -math.sqrt(0.5))
    else:
        u = TANH_SCALE * (x + TANH_CUBIC * (x * x * x))
        cdf = 0.5 * (1 + xp.tanh(u))
    return x * cdf, GeluCache(x, cdf, approximate)


@backward_of(gelu)
def gelu_backward(dy: Array, cache: GeluCache) -> Array:
    """dx = dy (Φ(x) + x φ(x));  with tanh, u′ = √(2/π) (1 + 3 · 0.044715 x²)."""
    x, cdf, approximate = cache
    if approximate == "none":
        density = array_namespace(dy).exp(-0.5 * (x * x)) * (1 / math.sqrt(2 * math.pi))
    else:
        du = TANH_SCALE * (1 + 3 * TANH_CUBIC * (x * x))
        density = 2 * cdf * (1 - cdf) * du
    return dy * (cdf + x * density)
