"""How a model learns where a token stands: four encodings behind one interface.

    kind          acts on             what it does
    sinusoidal    the embeddings      adds a fixed vector of sines and cosines       [Vaswani et al. 2017, §3.5]
    learned       the embeddings      adds a trained vector a position; has a last position
    rotary        queries and keys    turns channel pairs by angles proportional to the position   [Su et al. 2021]
    alibi         attention scores    lowers them in proportion to the distance      [Press et al. 2022]

Each kind fills in one of the three hooks below and leaves the other two as they are. `offset` is the position of the
first token given, which is not 0 where inference continues a sequence.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minilm.backend import Array, array_namespace
from minilm.checks import one_of, whole
from minilm.layers.base import Gradients, Layer
from minilm.layers.initialization import normal
from minilm.memory import add
from minilm.ops.alibi_bias import alibi_bias
from minilm.ops.rotary import rotary, rotary_backward
from minilm.ops.sinusoidal_positions import sinusoidal_positions


class PositionalEncoding(Layer):
    """The interface, and the encoding that does nothing."""

    context: int | None = None  # how many positions there are; None where there is no last one
    additive = False  # acts on the embeddings, once, below the blocks; the others act inside attention

    def forward(
        self, x: Array, *, offset: int = 0, train: bool = True, cache: bool = True, rng: Any = None
    ) -> tuple[Array, Any]:
        """Embeddings with their positions: x (B, T, C) -> (B, T, C)."""
        return x, None

    def extend(self, x: Array, state: int | None = None) -> tuple[Array, int]:
        """The state is how many positions came before."""
        offset = state or 0
        return self.forward(x, offset=offset, train=False, cache=False)[0], offset + x.shape[1]

    def backward(self, dy: Array, cache: Any, *, need_dx: bool = True) -> tuple[Array | None, Gradients]:
        return (dy if need_dx else None), {}

    def rotate(self, x: Array, offset: int = 0, *, cache: bool = True) -> tuple[Array, Any]:
        """Queries or keys with their positions: x (B, H, T, D) -> (B, H, T, D)."""
        return x, None

    def rotate_backward(self, dy: Array, cache: Any) -> Array:
        return dy

    def bias(self, heads: int, queries: int, keys: int, like: Array) -> Array | None:
        """What is added to the scores, (H, Tq, Tk) in library and precision of `like`; queries end where keys end."""
        return None


class NoPositions(PositionalEncoding):
    """No positions: a recurrent layer, or a causal mask, is all that tells the order."""


class Sinusoidal(PositionalEncoding):
    """y_t = x_t + p_t with the fixed p of `sinusoidal_positions`. No parameters and no last position."""

    additive = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self._table: Array | None = None  # the rows computed so far: a constant, grown when a longer text comes

    def forward(
        self, x: Array, *, offset: int = 0, train: bool = True, cache: bool = True, rng: Any = None
    ) -> tuple[Array, Any]:
        end = offset + x.shape[1]
        table, dtype = self._table, x.real.dtype
        fits = table is not None and table.shape[0] >= end and table.dtype == dtype
        if table is None or not fits or array_namespace(table) is not array_namespace(x):
            self._table = table = sinusoidal_positions(max(end, 64), self.width, dtype=dtype, like=x)  # (T', C)
        return add(x, table[offset:end]), None  # (B, T, C)


class Learned(PositionalEncoding):
    """y_t = x_t + W_t, W (context, C) trained. Raises ValueError for a position past the last."""

    additive = True
    no_decay = ("weight",)

    def __init__(
        self, context: int, width: int, *, std: float = 0.02, rng: np.random.Generator, dtype: str = "float32"
    ) -> None:
        super().__init__()
        whole("learned positions: context", context, 1)
        whole("learned positions: width", width, 1)
        self.context = context
        self.params["weight"] = normal(rng, (context, width), std, dtype)

    def forward(
        self, x: Array, *, offset: int = 0, train: bool = True, cache: bool = True, rng: Any = None
    ) -> tuple[Array, Any]:
        end = offset + x.shape[1]
        if end > self.context:
            raise ValueError(
                f"the text reaches {end} tokens, but the model has learned {self.context} positions: shorten the text, "
                "or train with a longer context"
            )
        return add(x, self.weight[offset:end]), ((offset, end) if cache else None)  # (B, T, C)

    def backward(self, dy: Array, cache: Any, *, need_dx: bool = True) -> tuple[Array | None, Gradients]:
        dx = dy if need_dx else None
        if "weight" in self.frozen:
            return dx, {}
        offset, end = cache
        dweight = array_namespace(dy).zeros(self.weight.shape, dy.dtype)
        dweight[offset:end] = dy.sum(axis=0)  # (T, C)
        return dx, {"weight": dweight}


class Rotary(PositionalEncoding):
    """Turns pairs of channels of queries and keys, so that a score depends on the distance of the two only."""

    def __init__(self, base: float = 10000.0, interleaved: bool = False) -> None:
        super().__init__()
        self.base, self.interleaved = base, interleaved

    def rotate(self, x: Array, offset: int = 0, *, cache: bool = True) -> tuple[Array, Any]:
        return rotary(x, range(offset, offset + x.shape[2]), self.base, self.interleaved, cache=cache)

    def rotate_backward(self, dy: Array, cache: Any) -> Array:
        return rotary_backward(dy, cache)


class ALiBi(PositionalEncoding):
    """Adds −slope · distance to the scores, with a slope of its own for each head."""

    def bias(self, heads: int, queries: int, keys: int, like: Array) -> Array:
        return alibi_bias(heads, queries, keys, dtype=like.real.dtype, like=like)  # (H, Tq, Tk)


KINDS = ("sinusoidal", "learned", "rotary", "alibi", "none")


def positional_encoding(
    kind: str, context: int | None, width: int, heads: int, rng: np.random.Generator, dtype: str = "float32"
) -> PositionalEncoding:
    """The encoding named `kind`. `context` is needed for "learned"; rotary needs an even head size width/heads."""
    one_of("positions", kind, KINDS)
    if kind == "learned":
        if context is None:
            raise ValueError("learned positions need a context: the number of positions to learn")
        return Learned(context, width, rng=rng, dtype=dtype)
    if kind == "rotary" and (width // heads) % 2:
        raise ValueError(f"rotary positions turn pairs of channels: head size {width // heads} must be even")
    if kind == "sinusoidal":
        return Sinusoidal(width)
    return {"rotary": Rotary, "alibi": ALiBi, "none": NoPositions}[kind]()
