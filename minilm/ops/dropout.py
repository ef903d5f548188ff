"""Dropout: each number is zeroed with probability p, the others are scaled so that the expectation stays.

    y = m x / (1 − p)        m ∈ {0, 1}, P(m = 0) = p, drawn anew for each number

Used while training only; at inference a layer leaves it out, which the scale makes right without another factor.

[Srivastava et al. 2014, "Dropout", §4; the scale at training time, "inverted dropout", is from its §10]
"""

from typing import Any, NamedTuple

from minilm.backend import Array, floating_namespace, uniform
from minilm.checks import check_dropout
from minilm.selection import backward_of, op


class DropoutCache(NamedTuple):
    """What was drawn: one byte a number. x is not kept."""

    mask: Array | None  # (...) bool, True where x was kept; None with p = 0, where nothing was drawn
    scale: float  # 1/(1 − p), 0 with p = 1


@op
def dropout(x: Array, p: float, rng: Any) -> tuple[Array, DropoutCache]:
    """y = m x / (1 − p). x (...), y (...); p in [0, 1]; rng a NumPy generator (or one of x's library).

    With p = 0 nothing is drawn, rng may be None and y is x itself; with p = 1 everything is zero.
    Raises ValueError for another p, or where p > 0 and there is no generator.
    """
    floating_namespace(x)
    check_dropout("dropout: p", p, rng)
    if p == 0:
        return x, DropoutCache(None, 1.0)
    mask = uniform(rng, x.shape, x) >= p
    scale = 1 / (1 - float(p)) if p < 1 else 0.0
    return x * mask * scale, DropoutCache(mask, scale)


@backward_of(dropout)
def dropout_backward(dy: Array, cache: DropoutCache) -> Array:
    """dx = m dy / (1 − p): the same numbers, the same scale."""
    return dy if cache.mask is None else dy * cache.mask * cache.scale
