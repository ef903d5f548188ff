"""The dropout layer: while training, each number is zero with probability p, and 1/(1−p) times itself otherwise."""

from __future__ import annotations

from typing import Any

from minilm.backend import Array
from minilm.checks import number
from minilm.layers.base import Gradients, Layer
from minilm.ops.dropout import dropout, dropout_backward


class Dropout(Layer):
    """y = x · mask / (1 − p) while training, y = x otherwise or with p = 0; nothing is drawn then. x of any shape.

    Training with p > 0 needs `rng`; the drawn mask is in the cache. [Srivastava et al. 2014]
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = number("dropout", p, below=1)

    def forward(self, x: Array, *, train: bool = True, cache: bool = True, rng: Any = None) -> tuple[Array, Any]:
        if not train or self.p == 0.0:
            return x, None
        if rng is None:
            raise ValueError(
                f"Dropout: training with p = {self.p} draws random numbers; give rng=numpy.random.default_rng(seed), "
                "or train=False for inference"
            )
        return dropout(x, self.p, rng, cache=cache)

    def backward(self, dy: Array, cache: Any, *, need_dx: bool = True) -> tuple[Array | None, Gradients]:
        if not need_dx:
            return None, {}
        return (dy if cache is None else dropout_backward(dy, cache)), {}
