"""The linear layer: owns W (out, in) and b (out,) of `ops.linear`."""

from __future__ import annotations

from typing import Any

import numpy as np

from minilm.backend import Array
from minilm.layers.base import Gradients, Layer
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
