"""The activation layer: one of the pointwise functions of `ops.activation`, chosen by its name."""

from __future__ import annotations

import functools
from typing import Any

from minilm.backend import Array
from minilm.layers.base import Gradients, Layer
from minilm.ops import activation as ops

ACTIVATIONS = {
    "relu": (ops.relu, ops.relu_backward),
    "gelu": (ops.gelu, ops.gelu_backward),
    "gelu-tanh": (functools.partial(ops.gelu, approximate="tanh"), ops.gelu_backward),
    "silu": (ops.silu, ops.silu_backward),
    "sigmoid": (ops.sigmoid, ops.sigmoid_backward),
    "tanh": (ops.tanh, ops.tanh_backward),
}


class Activation(Layer):
    """y = f(x), elementwise; f is named "relu", "gelu", "gelu-tanh", "silu", "sigmoid" or "tanh"."""

    def __init__(self, name: str) -> None:
        super().__init__()
        if name not in ACTIVATIONS:
            raise ValueError(f"activation {name!r} is unknown; choose one of {', '.join(ACTIVATIONS)}")
        self.name = name

    def forward(self, x: Array, *, train: bool = True, rng: Any = None) -> tuple[Array, Any]:
        return ACTIVATIONS[self.name][0](x, cache=train)

    def backward(self, dy: Array, cache: Any, *, need_dx: bool = True) -> tuple[Array | None, Gradients]:
        return (ACTIVATIONS[self.name][1](dy, cache) if need_dx else None), {}
