"""The logarithm of softmax along one axis.

    log_softmax(x)ᵢ = xᵢ − m − log Σⱼ exp(xⱼ − m)        m: the row's maximum

Infinities are those of `softmax`: −inf among others has log weight −inf. A row of all −inf gives zeros, which here is a
choice: a sum of log-probabilities stays finite and such a row adds nothing to it.
"""

from typing import NamedTuple

from minilm.backend import Array, array_namespace, floating_namespace
from minilm.ops.softmax import shifted_exponential
from minilm.selection import backward_of, op


class LogSoftmaxCache(NamedTuple):
    """The output; softmax is recomputed from it by one exp. `dead` is one byte a row."""

    y: Array  # (...)
    dead: Array  # (...) with axis 1 long, bool: rows of all −inf
    axis: int


@op
def log_softmax(x: Array, axis: int = -1) -> tuple[Array, LogSoftmaxCache]:
    """log softmax(x), in nats, without the rounding to log 0. x (...), y (...). A row of all −inf gives zeros.

    Raises ValueError where the axis does not exist or is empty.
    """
    xp = floating_namespace(x)
    shifted, _, total, dead = shifted_exponential(x, axis)
    y = xp.where(dead, 0.0, shifted - xp.log(total))
    return y, LogSoftmaxCache(y, dead, axis)


@backward_of(log_softmax)
def log_softmax_backward(dy: Array, cache: LogSoftmaxCache) -> Array:
    """dx = dy − softmax(x) Σ dy."""
    xp = array_namespace(dy)
    y, dead, axis = cache
    return xp.where(dead, 0.0, dy - xp.exp(y) * dy.sum(axis=axis, keepdims=True))
