"""The activation layer: one of the pointwise functions of `minilm.ops`, chosen by its name."""

from __future__ import annotations

from typing import Any

from minilm import ops
from minilm.backend import Array
from minilm.checks import one_of
from minilm.layers.base import Gradients, Layer

ACTIVATIONS = {
    "relu": (ops.relu, {}),
    "gelu": (ops.gelu, {}),
    "gelu-tanh": (ops.gelu, {"approximate": "tanh"}),
    "silu": (ops.silu, {}),
    "sigmoid": (ops.sigmoid, {}),
    "tanh": (ops.tanh, {}),
}


class Activation(Layer):
    """y = f(x), elementwise; f is named "relu", "gelu", "gelu-tanh", "silu", "sigmoid" or "tanh"."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = one_of("activation", name, ACTIVATIONS)

    def forward(self, x: Array, *, train: bool = True, cache: bool = True, rng: Any = None) -> tuple[Array, Any]:
        op, options = ACTIVATIONS[self.name]
        return op(x, **options, cache=cache)

    def backward(self, dy: Array, cache: Any, *, need_dx: bool = True) -> tuple[Array | None, Gradients]:
        op, _ = ACTIVATIONS[self.name]
        return (op.backward(dy, cache) if need_dx else None), {}
