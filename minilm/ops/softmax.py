"""Softmax along one axis.

    softmax(x)ᵢ = exp(xᵢ − m) / Σⱼ exp(xⱼ − m)

m is the row's maximum: it cancels, but keeps exp from overflowing. What becomes of infinities:

    −inf among others      weight 0, no gradient
    a row of all −inf      sees nothing and has no distribution: zeros, and zero gradient
    +inf or NaN            the whole row is NaN

[Bridle 1990; the shift: Goodfellow et al. 2016, "Deep Learning", §4.1]
"""

from typing import NamedTuple

from minilm.backend import Array, floating_namespace
from minilm.selection import backward_of, op


def shifted_exponential(x: Array, axis: int) -> tuple[Array, Array, Array, Array]:
    """x − m, exp(x − m), its sum (1 for a row of all −inf), and which rows those are: the last two with axis 1 long.

    m is the maximum; 0 in a row of all −inf and NaN in one with +inf, since inf − inf would warn.
    """
    xp = floating_namespace(x)
    if x.ndim == 0 or not -x.ndim <= axis < x.ndim:
        raise ValueError(f"softmax: axis {axis} does not exist in x of shape {x.shape}")
    if x.shape[axis] == 0:
        raise ValueError(f"softmax: axis {axis} of x {x.shape} is empty; expected at least one entry")
    top = x.real.max(axis=axis, keepdims=True)  # axis -> 1
    dead = top == -xp.inf  # axis -> 1
    shifted = x - xp.where(dead, 0.0, xp.where(top == xp.inf, xp.nan, top))
    e = xp.exp(shifted)
    total = e.sum(axis=axis, keepdims=True)  # axis -> 1
    return shifted, e, xp.where(dead, 1.0, total), dead


class SoftmaxCache(NamedTuple):
    """The output is enough."""

    y: Array  # (...)
    axis: int


@op
def softmax(x: Array, axis: int = -1) -> tuple[Array, SoftmaxCache]:
    """y ≥ 0 with Σ y = 1 along `axis`. x (...), y (...). A row of all −inf gives zeros.

    Raises ValueError where the axis does not exist or is empty.
    """
    _, e, total, _ = shifted_exponential(x, axis)
    y = e / total
    return y, SoftmaxCache(y, axis)


@backward_of(softmax)
def softmax_backward(dy: Array, cache: SoftmaxCache) -> Array:
    """dx = y (dy − Σ dy y): raising one logit takes from all others in proportion to their share."""
    y, axis = cache
    return y * (dy - (dy * y).sum(axis=axis, keepdims=True))
