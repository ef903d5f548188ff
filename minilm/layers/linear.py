"""The linear layer: owns W (out, in) and b (out,) of `ops.linear`. A tied one borrows its W from an embedding."""

from __future__ import annotations

from typing import Any

import numpy as np

from minilm.backend import Array
from minilm.layers.base import Gradients, Layer, merge
from minilm.layers.embedding import Embedding
from minilm.layers.initialization import uniform
from minilm.ops.linear import LinearCache, linear, linear_backward


class Linear(Layer):
    """y = x Wᵀ + b, x (..., in), y (..., out).

    W and b are drawn from U(−1/√in, 1/√in), as PyTorch's `nn.Linear` does. `rng` is a NumPy generator.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        rng: np.random.Generator,
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        bound = in_features**-0.5
        self.params["weight"] = uniform(rng, (out_features, in_features), bound, dtype)
        if bias:
            self.params["bias"] = uniform(rng, (out_features,), bound, dtype)

    def forward(
        self, x: Array, *, train: bool = True, cache: bool = True, rng: Any = None
    ) -> tuple[Array, LinearCache | None]:
        return linear(x, self.weight, self.params.get("bias"), cache=cache)

    def backward(self, dy: Array, cache: LinearCache, *, need_dx: bool = True) -> tuple[Array | None, Gradients]:
        dx, dweight, dbias = linear_backward(dy, cache, wrt=self.wanted(need_dx))
        return dx, self.grads(weight=dweight, bias=dbias)


class TiedLinear(Layer):
    """y = x Wᵀ with the W (V, C) of `embedding`, x (..., C), y (..., V): one set of parameters in two places.

    [Press & Wolf 2017]
    """

    def __init__(self, embedding: Embedding) -> None:
        super().__init__()
        self.children["embedding"] = embedding

    def forward(
        self, x: Array, *, train: bool = True, cache: bool = True, rng: Any = None
    ) -> tuple[Array, LinearCache | None]:
        return linear(x, self.embedding.weight, cache=cache)

    def backward(self, dy: Array, cache: LinearCache, *, need_dx: bool = True) -> tuple[Array | None, Gradients]:
        dx, dweight, _ = linear_backward(dy, cache, wrt=self.embedding.wanted(need_dx))
        return dx, merge({}, self.embedding.grads(weight=dweight), "embedding.")
