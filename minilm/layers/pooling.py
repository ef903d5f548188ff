"""The pooling layer: one vector per text from one per token, as `ops.pool` says."""

from __future__ import annotations

from typing import Any

from minilm.backend import Array
from minilm.checks import one_of
from minilm.layers.base import Gradients, Layer
from minilm.ops.pool import POOLINGS, PoolCache, pool, pool_backward


class Pooling(Layer):
    """hidden (B, T, C) -> (B, C), lengths (B,). kind "last", "mean" or "max"; `directions` as in `ops.pool`."""

    def __init__(self, kind: str, directions: int = 1) -> None:
        super().__init__()
        self.kind, self.directions = one_of("pooling", kind, POOLINGS), directions

    def forward(
        self, x: Array, *, lengths: Array | None = None, train: bool = True, cache: bool = True, rng: Any = None
    ) -> tuple[Array, PoolCache | None]:
        return pool(x, lengths, self.kind, self.directions, cache=cache)

    def backward(self, dy: Array, cache: PoolCache, *, need_dx: bool = True) -> tuple[Array | None, Gradients]:
        return (pool_backward(dy, cache) if need_dx else None), {}
