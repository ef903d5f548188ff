"""The embedding layer: one row of a table a token, e_w = W[w]."""

from __future__ import annotations

from typing import Any

import numpy as np

from minilm.backend import Array
from minilm.checks import whole
from minilm.layers.base import Gradients, Layer
from minilm.layers.initialization import normal, uniform
from minilm.ops.embedding import embedding, embedding_backward


class Embedding(Layer):
    """y = W[ids], ids integers of any shape (...), W (V, C), y (..., C).

    W is drawn from N(0, std²), or from U(−bound, bound) where `bound` is given. The row `padding_idx`, if there is one,
    starts at zero and gets no gradient, so it stays zero. Raises ValueError for an id outside of 0 … V−1.
    """

    no_decay = ("weight",)  # a rare word's row would shrink at every step in which the word doesn't occur

    def __init__(
        self,
        vocab_size: int,
        width: int,
        padding_idx: int | None = None,
        *,
        std: float = 1.0,
        bound: float | None = None,
        rng: np.random.Generator,
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        whole("Embedding: vocab_size", vocab_size, 1)
        whole("Embedding: width", width, 1)
        if padding_idx is not None and not 0 <= padding_idx < vocab_size:
            raise ValueError(f"Embedding: padding_idx {padding_idx} is outside of the vocabulary 0 … {vocab_size - 1}")
        self.padding_idx = padding_idx
        shape = (vocab_size, width)
        weight = normal(rng, shape, std, dtype) if bound is None else uniform(rng, shape, bound, dtype)
        if padding_idx is not None:
            weight[padding_idx] = 0.0
        self.params["weight"] = weight  # (V, C)

    def forward(self, x: Array, *, train: bool = True, cache: bool = True, rng: Any = None) -> tuple[Array, Any]:
        return embedding(x, self.weight, self.padding_idx, cache=cache)

    def backward(self, dy: Array, cache: Any, *, need_dx: bool = True) -> tuple[None, Gradients]:
        """(None, gradients): ids have no gradient, whatever `need_dx` says."""
        if "weight" in self.frozen:
            return None, {}
        return None, self.grads(weight=embedding_backward(dy, cache))
