"""The rectified linear unit.

    relu(x) = max(x, 0)

[Nair & Hinton 2010]
"""

from typing import NamedTuple

from minilm.backend import Array, array_namespace, floating_namespace
from minilm.selection import backward_of, op


class ReluCache(NamedTuple):
    """Where the gradient stops: one byte an element, x itself is not kept."""

    stopped: Array  # (...) bool, x <= 0


@op
def relu(x: Array) -> tuple[Array, ReluCache]:
    """y = max(x, 0). x (...), y (...). NaN stays NaN."""
    xp = floating_namespace(x)
    stopped = x.real <= 0
    return xp.where(stopped, 0.0, x), ReluCache(stopped)


@backward_of(relu)
def relu_backward(dy: Array, cache: ReluCache) -> Array:
    """dx = dy where x > 0, else 0; at the kink x = 0 the left slope, 0, as in PyTorch."""
    return array_namespace(dy).where(cache.stopped, 0.0, dy)
