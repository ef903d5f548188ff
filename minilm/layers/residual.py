"""The residual connection: y = x + f(x), so that dx = dy + f'(x)ᵀ dy.  [He et al. 2016]"""

from __future__ import annotations

from typing import Any

from minilm.layers.base import Gradients
from minilm.layers.chain import Chain, ChainCache
from minilm.memory import add


class Residual(Chain):
    """y = x + f(x), f the chain of the layers named."""

    def forward(self, x: Any, **options: Any) -> tuple[Any, ChainCache | None]:
        y, cache = super().forward(x, **options)
        return add(x, y), cache

    def backward(
        self, dy: Any, cache: ChainCache, *, need_dx: bool = True, need_dmemory: bool | None = None
    ) -> tuple[Any, Gradients]:
        back, grads = super().backward(dy, cache, need_dx=need_dx, need_dmemory=need_dmemory)
        dx, *dmemory = back if self.reads_memory else (back,)
        dx = add(dy, dx) if need_dx else None
        return ((dx, *dmemory) if self.reads_memory else dx), grads

    def extend(self, x: Any, state: Any = None) -> tuple[Any, list[Any]]:
        y, state = super().extend(x, state)
        return add(x, y), state
