"""One vector a text from one vector a token: pooled = Σ_t weight_t · hidden_t, hidden (B, T, C) -> (B, C).

    last    the state after the whole text: weight 1 at token length−1, for a right-to-left half at token 0
    mean    weight 1/length at every token
    max     weight 1 at the largest value of each channel, the first of equal ones

Positions at or after a row's length are padding and weigh 0. lengths (B,), None where all rows are T long; a row of
length 0 counts as one token long.
"""

from math import inf
from typing import NamedTuple

from minilm.backend import Array, array_namespace
from minilm.checks import one_of
from minilm.selection import backward_of, op

POOLINGS = ("last", "mean", "max")


class PoolCache(NamedTuple):
    """The weights are all that the gradient needs: pooling is linear but for the choice that "max" makes."""

    weights: Array  # (B, T, C), for "mean" (B, T, 1)


@op
def pool(hidden: Array, lengths: Array | None, kind: str, directions: int = 1) -> tuple[Array, PoolCache]:
    """pooled (B, C), cache. With directions = 2 the second half of the channels runs from right to left."""
    xp = array_namespace(hidden, lengths)
    B, T, C = hidden.shape
    if T == 0:
        raise ValueError(f"an empty text can't be classified: hidden has shape {hidden.shape}")
    one_of("pooling", kind, POOLINGS)
    times = xp.arange(T)[:, None]  # (T, 1)
    counts = xp.full((B, 1, 1), T) if lengths is None else xp.maximum(lengths, 1)[:, None, None]  # (B, 1, 1)
    valid = times < counts  # (B, T, 1)
    if kind == "mean":
        chosen = valid / counts.astype(hidden.real.dtype)  # (B, T, 1)
    elif kind == "max":
        values = xp.where(valid, hidden.real, -inf)  # (B, T, C)
        chosen = times == values.argmax(axis=1)[:, None]  # (B, T, C)
    else:
        left_to_right = xp.arange(C) < C // directions  # (C,)  all channels, or with two directions the first half
        chosen = times == xp.where(left_to_right, counts - 1, 0)  # (B, T, C)
    weights = chosen.astype(hidden.real.dtype)
    return (hidden * weights).sum(axis=1), PoolCache(weights)


@backward_of(pool)
def pool_backward(dpooled: Array, cache: PoolCache) -> Array:
    """∂L/∂hidden_t = weight_t · ∂L/∂pooled. dpooled (B, C), result (B, T, C)."""
    return dpooled[:, None, :] * cache.weights
