"""One vector a text from one vector a token: pooled = Σ_t weight_t · hidden_t, hidden (B, T, C) -> (B, C).

    last    the state after the whole text: weight 1 at token length−1, for a right-to-left half at token 0
    mean    weight 1/length at every token
    max     weight 1 at the largest value of each channel, the first of equal ones

Positions at or after a row's length are padding and weigh 0. lengths (B,), None where all rows are T long; a row of
length 0 counts as one token long.
"""

from __future__ import annotations

from typing import NamedTuple

from minilm.backend import Array, array_namespace
from minilm.selection import backward_of, op

POOLINGS = ("last", "mean", "max")


class PoolCache(NamedTuple):
    """The weights are all that the gradient needs: pooling is linear but for the choice that "max" makes."""

    weights: Array  # (B, T, 1) or (B, T, C)


@op
def pool(hidden: Array, lengths: Array | None, kind: str, directions: int = 1) -> tuple[Array, PoolCache]:
    """pooled (B, C), cache. With directions = 2 the second half of the channels runs from right to left."""
    xp = array_namespace(hidden, lengths)
    _, T, C = hidden.shape
    if T == 0:
        raise ValueError(f"an empty text can't be classified: hidden has shape {hidden.shape}")
    times = xp.arange(T)[None, :]  # (1, T)
    if lengths is None:
        valid, ends = xp.ones(hidden.shape[:2], bool), xp.full((hidden.shape[0], 1), T - 1)
    else:
        ends = xp.maximum(lengths, 1)[:, None] - 1  # (B, 1)
        valid = times <= ends  # (B, T)
    dtype = hidden.real.dtype
    if kind == "mean":
        weights = (valid / (ends + 1).astype(dtype))[:, :, None]  # (B, T, 1)
    elif kind == "max":
        values = xp.where(valid[:, :, None], hidden.real, -float("inf"))  # (B, T, C)
        weights = times[:, :, None] == values.argmax(axis=1)[:, None, :]  # (B, T, C)
    elif kind == "last":
        weights = (times == ends)[:, :, None]  # (B, T, 1)
        if directions == 2:
            left_to_right = xp.arange(C) < C // 2  # (C,)
            weights = xp.where(left_to_right, weights, (times == 0)[:, :, None])  # (B, T, C)
    else:
        raise ValueError(f"pooling {kind!r} is unknown; choose one of {', '.join(POOLINGS)}")
    weights = weights.astype(dtype, copy=False)
    return (hidden * weights).sum(axis=1), PoolCache(weights)


@backward_of(pool)
def pool_backward(dpooled: Array, cache: PoolCache) -> Array:
    """∂L/∂hidden_t = weight_t · ∂L/∂pooled. dpooled (B, C), result (B, T, C)."""
    return dpooled[:, None, :] * cache.weights
