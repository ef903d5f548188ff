"""The logistic function.

sigmoid(x) = σ(x) = 1 / (1 + exp(−x))
"""

from typing import NamedTuple

from minilm.backend import Array, array_namespace, floating_namespace
from minilm.selection import backward_of, op


def logistic(x: Array) -> Array:
    """σ(x) without overflow: exp is only ever taken of −|x|. Keeps its digits in the left tail, where σ(x) ≈ eˣ.

    The branch is taken on the real part and nothing takes an absolute value, so that it is analytic everywhere.
    """
    xp = array_namespace(x)
    left = x.real < 0
    e = xp.exp(xp.where(left, x, -x))
    return xp.where(left, e, 1.0) / (1 + e)


class SigmoidCache(NamedTuple):
    """The output is enough: σ′ = σ (1 − σ)."""

    y: Array  # (...)


@op
def sigmoid(x: Array) -> tuple[Array, SigmoidCache]:
    """y = 1 / (1 + exp(−x)). x (...), y (...)."""
    floating_namespace(x)
    y = logistic(x)
    return y, SigmoidCache(y)


@backward_of(sigmoid)
def sigmoid_backward(dy: Array, cache: SigmoidCache) -> Array:
    """dx = dy y (1 − y)."""
    return dy * (cache.y * (1 - cache.y))
