"""Recurrent networks as a backbone: embedding, then optionally positions, convolution, attention, then the recurrence.

    x = dropout(W_e[ids] + positions)                embedding; positions only where they are asked for
    x = conv1d(x)                                    optional: mixes K neighbours
    x = dropout(attention(x))                        optional: mixes all positions
    hidden = dropout(rnn(x))                         tanh RNN, LSTM or GRU, any depth, one or two directions

The stack of "Embedding -> Dropout -> 8-head attention -> Dropout -> 2-layer LSTM -> Dropout" and of
"Embedding -> Conv1D -> LSTM" are both settings of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from minilm.backend import Array, array_namespace
from minilm.layers.attention import MultiHeadAttention
from minilm.layers.base import Gradients, Layer, merge
from minilm.layers.convolution import Conv1d
from minilm.layers.dropout import Dropout
from minilm.layers.embedding import Embedding
from minilm.layers.positional import KINDS, positional_encoding
from minilm.layers.recurrent import GRU, LSTM, RNN
from minilm.memory import add
from minilm.models.backbone import Backbone, positive
from minilm.options import check_options, option

CELLS = {"rnn": RNN, "lstm": LSTM, "gru": GRU}


@dataclass(frozen=True)
class RecurrentOptions:
    """Options of a recurrent network, with what may stand under the recurrence."""

    embedding_size: int = option(64, "channels of the embedding", at_least=1)
    width: int = option(64, "channels of the hidden vectors, in each direction", at_least=1)
    layers: int = option(1, "number of recurrent layers", at_least=1)
    cell: str = option("lstm", "the recurrence", choices=CELLS)
    bidirectional: bool = option(False, "a second recurrence from right to left; hidden vectors are twice as wide")
    heads: int = option(0, "attention heads under the recurrence, a divisor of embedding_size; 0: no attention")
    attention_residual: bool = option(False, "add its input to the attention's output")
    conv_kernel: int | None = option(None, "size of the convolution under the recurrence; by default none", at_least=1)
    positions: str = option("none", "how order is told to the attention", choices=KINDS)
    context: int | None = option(
        None, "tokens of a training window; learned positions allow no longer text", at_least=1
    )
    causal: bool = option(True, "convolution and attention see no later token; a classifier may look both ways")
    dropout: float = option(0.0, "probability with which numbers are dropped while training", below=1.0)
    initialization: str = option("pytorch", "of the recurrence", choices=("pytorch", "orthogonal"))
    embedding_std: float = option(1.0, "standard deviation of the embeddings at the start, without embedding_bound")
    embedding_bound: float | None = option(
        None, "embeddings start in U(-bound, bound); by default in N(0, embedding_std^2)"
    )

    def __post_init__(self) -> None:
        check_options(self)


class RecurrentState(NamedTuple):
    """What inference remembers of the tokens before."""

    length: int
    convolution: Any  # the last inputs of the convolution
    attention: Any  # keys and values
    recurrence: Any  # h, or (h, c)


class RecurrentCache(NamedTuple):
    """The caches of the parts by name, and which positions are no padding."""

    parts: dict[str, Any]
    valid: Array | None  # (B, T, 1) ones and zeros


class RecurrentBackbone(Backbone):
    """ids (B, T) -> hidden (B, T, directions·H). Children embedding, positions, dropout, conv, attention, rnn.

    embedding_size, width (of hidden, in each direction), layers, cell ("rnn", "lstm", "gru"), bidirectional
    conv_kernel    size of a convolution with embedding_size channels under the recurrence; None for none
    heads          attention heads under the recurrence; 0 for no attention; `attention_residual` adds its input to it
    positions      "none" or an encoding of `layers.positional`; "rotary" and "alibi" need attention
    causal         the convolution and the attention see no later token; a bidirectional recurrence always does
    initialization, embedding_std, embedding_bound    as in LSTM and Embedding
    padding_idx    the id whose embedding is and stays zero, None for none
    """

    def __init__(
        self,
        vocab_size: int,
        embedding_size: int,
        width: int,
        *,
        layers: int = 1,
        cell: str = "lstm",
        bidirectional: bool = False,
        conv_kernel: int | None = None,
        heads: int = 0,
        attention_residual: bool = False,
        positions: str = "none",
        context: int | None = None,
        causal: bool = True,
        dropout: float = 0.0,
        initialization: str = "pytorch",
        embedding_std: float = 1.0,
        embedding_bound: float | None = None,
        padding_idx: int | None = None,
        rng: np.random.Generator,
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        positive(
            vocab_size=vocab_size, embedding_size=embedding_size, width=width, layers=layers,
            conv_kernel=conv_kernel, heads=heads or None, context=context,
        )  # fmt: skip
        if cell not in CELLS:
            raise ValueError(f"cell {cell!r} is unknown; choose one of {', '.join(CELLS)}")
        if positions in ("rotary", "alibi") and not heads:
            raise ValueError(f"{positions} positions act inside attention; set heads, or choose other positions")
        if heads and embedding_size % heads:
            raise ValueError(f"embedding size {embedding_size} must be a multiple of the number of heads, {heads}")
        encoding = positional_encoding(positions, context, embedding_size, max(heads, 1), rng, dtype)
        drawn = {"rng": rng, "dtype": dtype}
        self.vocab_size, self.width = vocab_size, width * (2 if bidirectional else 1)
        self.directions = 2 if bidirectional else 1
        self.causal, self.attention_residual, self.context = causal, attention_residual, encoding.context
        mixes = heads > 0 or (conv_kernel or 1) > 1
        self.bidirectional = bidirectional or (mixes and not causal)
        self.children["embedding"] = Embedding(
            vocab_size, embedding_size, padding_idx, std=embedding_std, bound=embedding_bound, **drawn
        )
        if encoding.additive:
            self.children["positions"] = encoding
        self.children["dropout"] = Dropout(dropout)
        if conv_kernel is not None:
            self.children["conv"] = Conv1d(
                embedding_size, embedding_size, conv_kernel, padding="causal" if causal else "same", **drawn
            )
        if heads:
            inside = None if encoding.additive else encoding
            self.children["attention"] = MultiHeadAttention(
                embedding_size, heads, dropout=dropout, positions=inside, **drawn
            )
        self.children["rnn"] = CELLS[cell](
            embedding_size, width, layers, bidirectional, dropout, initialization=initialization, **drawn
        )

    def _below(self, *names: str) -> bool:
        """Whether anything is trained among the named parts that exist."""
        return not all(self.children[name].is_frozen for name in names if name in self.children)

    def forward(
        self, ids: Array, *, lengths: Array | None = None, train: bool = True, cache: bool = True, rng: Any = None
    ) -> tuple[Array, RecurrentCache | None]:
        """hidden (B, T, C), cache. lengths (B,): tokens at or after a row's length are padding and change nothing."""
        self._check(ids)
        parts: dict[str, Any] = {}
        valid = None

        def apply(name: str, layer: Layer, x: Any, **options: Any) -> Any:
            y, parts[name] = layer.forward(x, train=train, cache=cache, **options)
            return y

        x = apply("embedding", self.embedding, ids)  # (B, T, E)
        if "positions" in self.children:
            x = apply("positions", self.positions, x)
        x = apply("dropout", self.dropout, x, rng=rng)
        if "conv" in self.children:
            if lengths is not None:  # a convolution would carry padding into its neighbours
                xp = array_namespace(x)
                valid = (xp.arange(ids.shape[1]) < lengths[:, None])[:, :, None].astype(x.real.dtype)  # (B, T, 1)
                x = x * valid
            x = apply("conv", self.conv, x)
        if "attention" in self.children:
            options = {"causal": self.causal, "key_lengths": lengths, "rng": rng}
            y = apply("attention", self.attention, x, **options)
            y = apply("dropout_attention", self.dropout, y, rng=rng)
            x = add(x, y) if self.attention_residual else y
        x, _ = apply("rnn", self.rnn, x, lengths=lengths, rng=rng)  # (B, T, directions·H)
        x = apply("dropout_rnn", self.dropout, x, rng=rng)
        return x, (RecurrentCache(parts, valid) if cache else None)

    def backward(self, dy: Array, cache: RecurrentCache, *, need_dx: bool = False) -> tuple[None, Gradients]:
        parts, grads = cache.parts, {}
        dy, _ = self.dropout.backward(dy, parts["dropout_rnn"])
        below = self._below("embedding", "positions", "conv", "attention")
        if not below and self.rnn.is_frozen:
            return None, grads
        (dx, _), own = self.rnn.backward((dy, None), parts["rnn"], need_dx=below)
        merge(grads, own, "rnn.")
        if "attention" in self.children and below:
            below = self._below("embedding", "positions", "conv")
            dy, _ = self.dropout.backward(dx, parts["dropout_attention"])
            dy, own = self.attention.backward(dy, parts["attention"], need_dx=below)
            merge(grads, own, "attention.")
            dx = dx + dy if below and self.attention_residual else dy
        if "conv" in self.children and below:
            below = self._below("embedding", "positions")
            dx, own = self.conv.backward(dx, parts["conv"], need_dx=below)
            merge(grads, own, "conv.")
            if below and cache.valid is not None:
                dx = dx * cache.valid
        if below:
            dx, _ = self.dropout.backward(dx, parts["dropout"])
            if "positions" in self.children:
                dx, own = self.positions.backward(dx, parts["positions"], need_dx=self._below("embedding"))
                merge(grads, own, "positions.")
            if dx is not None:
                merge(grads, self.embedding.backward(dx, parts["embedding"])[1], "embedding.")
        return None, grads

    def step(self, ids: Array, state: RecurrentState | None = None) -> tuple[Array, RecurrentState]:
        self._check_causal()
        length, convolution, attention, recurrence = (0, None, None, None) if state is None else state
        self._check(ids, length)
        x, _ = self.embedding.forward(ids, train=False, cache=False)
        if "positions" in self.children:
            x, _ = self.positions.forward(x, offset=length, train=False, cache=False)
        if "conv" in self.children:
            x, convolution = self.conv.step(x, convolution)
        if "attention" in self.children:
            y, attention = self.attention.step(x, attention)
            x = add(x, y) if self.attention_residual else y
        (x, recurrence), _ = self.rnn.forward(x, recurrence, train=False, cache=False)
        return x, RecurrentState(length + ids.shape[1], convolution, attention, recurrence)
