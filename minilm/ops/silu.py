"""The sigmoid linear unit, also called "swish".

    silu(x) = x σ(x)

[Elfwing et al. 2017]
"""

from typing import NamedTuple

from minilm.backend import Array, floating_namespace
from minilm.ops.sigmoid import logistic
from minilm.selection import backward_of, op


class SiluCache(NamedTuple):
    """x is borrowed; σ(x) is kept rather than recomputed: one exponential less, one array more."""

    x: Array  # (...)
    gate: Array  # (...)  σ(x)


@op
def silu(x: Array) -> tuple[Array, SiluCache]:
    """y = x σ(x). x (...), y (...)."""
    floating_namespace(x)
    gate = logistic(x)
    return x * gate, SiluCache(x, gate)


@backward_of(silu)
def silu_backward(dy: Array, cache: SiluCache) -> Array:
    """dx = dy (σ + x σ (1 − σ))."""
    x, gate = cache
    return dy * (gate + x * gate * (1 - gate))
