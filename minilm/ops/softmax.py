"""Softmax and its logarithm along one axis.

    softmax(x)ᵢ = exp(xᵢ − m) / Σⱼ exp(xⱼ − m)        log_softmax(x)ᵢ = xᵢ − m − log Σⱼ exp(xⱼ − m)

m is the row's maximum: it cancels, but keeps exp from overflowing. What becomes of infinities:

    −inf among others      weight 0 (log weight −inf), no gradient from softmax
    a row of all −inf      sees nothing and has no distribution: zeros from both ops, and zero gradient. For log_softmax
                           that is a choice: a sum of log-probabilities stays finite and such a row adds nothing to it
    +inf or NaN            the whole row is NaN

Loss functions use neither: cross-entropy on logits is in `loss.py`.

[Bridle 1990; the shift: Goodfellow et al. 2016, "Deep Learning", §4.1]
"""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

from minilm.backend import Array, array_namespace, floating_namespace
from minilm.kernels.selection import follows_cache, selectable


def shifted_exponential(xp: ModuleType, x: Array, axis: int) -> tuple[Array, Array, Array, Array]:
    """x − m, exp(x − m), its sum (1 for a row of all −inf), and which rows those are: the last two with axis 1 long.

    m is the maximum; 0 in a row of all −inf and NaN in one with +inf, since inf − inf would warn.
    """
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


@selectable
def softmax(x: Array, axis: int = -1) -> tuple[Array, SoftmaxCache]:
    """y ≥ 0 with Σ y = 1 along `axis`. x (...), y (...). A row of all −inf gives zeros.

    Raises ValueError where the axis does not exist or is empty.
    """
    _, e, total, _ = shifted_exponential(floating_namespace(x), x, axis)
    e /= total
    return e, SoftmaxCache(e, axis)


@follows_cache
def softmax_backward(dy: Array, cache: SoftmaxCache) -> Array:
    """dx = y (dy − Σ dy y): raising one logit takes from all others in proportion to their share."""
    y, axis = cache
    return y * (dy - (dy * y).sum(axis=axis, keepdims=True))


class LogSoftmaxCache(NamedTuple):
    """The output; softmax is recomputed from it by one exp. `dead` is one byte a row."""

    y: Array  # (...)
    dead: Array  # (...) with axis 1 long, bool: rows of all −inf
    axis: int


@selectable
def log_softmax(x: Array, axis: int = -1) -> tuple[Array, LogSoftmaxCache]:
    """log softmax(x), in nats, without the rounding to log 0. x (...), y (...). A row of all −inf gives zeros.

    Raises ValueError where the axis does not exist or is empty.
    """
    xp = floating_namespace(x)
    shifted, _, total, dead = shifted_exponential(xp, x, axis)
    y = xp.where(dead, 0.0, shifted - xp.log(total))
    return y, LogSoftmaxCache(y, dead, axis)


@follows_cache
def log_softmax_backward(dy: Array, cache: LogSoftmaxCache) -> Array:
    """dx = dy − softmax(x) Σ dy."""
    xp = array_namespace(dy)
    y, dead, axis = cache
    return xp.where(dead, 0.0, dy - xp.exp(y) * dy.sum(axis=axis, keepdims=True))
