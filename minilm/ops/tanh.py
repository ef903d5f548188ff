"""The hyperbolic tangent.

tanh(x) = (eˣ − e⁻ˣ) / (eˣ + e⁻ˣ)
"""

from typing import NamedTuple

from minilm.backend import Array, floating_namespace
from minilm.selection import backward_of, op


class TanhCache(NamedTuple):
    """The output is enough: tanh′ = 1 − tanh²."""

    y: Array  # (...)


@op
def tanh(x: Array) -> tuple[Array, TanhCache]:
    """y = tanh x. x (...), y (...)."""
    y = floating_namespace(x).tanh(x)
    return y, TanhCache(y)


@backward_of(tanh)
def tanh_backward(dy: Array, cache: TanhCache) -> Array:
    """dx = dy (1 − y²)."""
    return dy * (1 - cache.y * cache.y)
