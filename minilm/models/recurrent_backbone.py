"""Recurrent networks as a backbone: embedding, then optionally positions, convolution, attention, then the recurrence.

    x = dropout(W_e[ids] + positions)                embedding; positions only where they are asked for
    x = conv1d(x)                                    optional: mixes K neighbours
    x = dropout(attention(x))                        optional: mixes all positions
    hidden = dropout(rnn(x))                         tanh RNN, LSTM or GRU, any depth, one or two directions

The stack of "Embedding -> Dropout -> 8-head attention -> Dropout -> 2-layer LSTM -> Dropout" and of
"Embedding -> Conv1D -> LSTM" are both settings of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minilm.backend import Array
from minilm.checks import one_of
from minilm.layers.attention import MultiHeadAttention
from minilm.layers.base import Gradients
from minilm.layers.chain import Chain, ChainCache
from minilm.layers.convolution import Conv1d
from minilm.layers.dropout import Dropout
from minilm.layers.embedding import Embedding
from minilm.layers.padding import ZeroPadding
from minilm.layers.positional import positional_encoding
from minilm.layers.recurrent import GRU, LSTM, RNN
from minilm.models.backbone import Backbone, positive

CELLS = {"rnn": RNN, "lstm": LSTM, "gru": GRU}


class Outputs(Chain):
    """A recurrent layer without its final state: the outputs alone go on."""

    def forward(self, x: Array, **options: Any) -> tuple[Array, ChainCache | None]:
        (y, _), cache = super().forward(x, **options)
        return y, cache

    def backward(self, dy: Array, cache: ChainCache, *, need_dx: bool = True) -> tuple[Array | None, Gradients]:
        back, grads = super().backward((dy, None), cache, need_dx=need_dx)
        return (back[0] if need_dx else None), grads


class RecurrentBackbone(Backbone):
    """ids (B, T) -> hidden (B, T, directions·H). Children embedding, positions, dropout, padding, conv, attention, rnn.

    embedding_size, hidden_size, layers, cell ("rnn", "lstm", "gru"), bidirectional
    conv_kernel    size of a convolution with embedding_size channels under the recurrence; None for none
    heads          attention heads under the recurrence; 0 for no attention
    positions      "none" or an encoding of `layers.positional`; "rotary" and "alibi" need attention
    causal         the convolution and the attention see no later token; a bidirectional recurrence always does
    initialization, embedding_std, embedding_bound    as in LSTM and Embedding
    padding_idx    the id whose embedding is and stays zero, None for none
    """

    def __init__(
        self,
        vocab_size: int,
        embedding_size: int,
        hidden_size: int,
        *,
        layers: int = 1,
        cell: str = "lstm",
        bidirectional: bool = False,
        conv_kernel: int | None = None,
        heads: int = 0,
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
            vocab_size=vocab_size, embedding_size=embedding_size, hidden_size=hidden_size, layers=layers,
            conv_kernel=conv_kernel, heads=heads or None, context=context,
        )  # fmt: skip
        one_of("cell", cell, CELLS)
        if positions in ("rotary", "alibi") and not heads:
            raise ValueError(f"{positions} positions act inside attention; set heads, or choose other positions")
        if heads and embedding_size % heads:
            raise ValueError(f"embedding size {embedding_size} must be a multiple of the number of heads, {heads}")
        encoding = positional_encoding(positions, context, embedding_size, max(heads, 1), rng, dtype)
        drawn = {"rng": rng, "dtype": dtype}
        self.vocab_size, self.width = vocab_size, hidden_size * (2 if bidirectional else 1)
        self.directions, self.context = 2 if bidirectional else 1, encoding.context
        mixes = heads > 0 or (conv_kernel or 1) > 1
        self.causal = not bidirectional and (causal or not mixes)
        self.masked = causal
        self.children["embedding"] = Embedding(
            vocab_size, embedding_size, padding_idx, std=embedding_std, bound=embedding_bound, **drawn
        )
        if encoding.additive:
            self.children["positions"] = encoding
        self.children["dropout"] = Dropout(dropout)
        if conv_kernel is not None:
            self.children["padding"] = ZeroPadding()
            self.children["conv"] = Conv1d(
                embedding_size, embedding_size, conv_kernel, padding="causal" if causal else "same", **drawn
            )
        if heads:
            inside = None if encoding.additive else encoding
            self.children["attention"] = MultiHeadAttention(
                embedding_size, heads, dropout=dropout, positions=inside, **drawn
            )
        self.children["rnn"] = CELLS[cell](
            embedding_size, hidden_size, layers, bidirectional, dropout, initialization=initialization, **drawn
        )
        below = [name for name in self.children if name not in ("attention", "rnn")]
        attention = ("attention", "dropout") if heads else ()
        self.chain = Chain(self.children, *below, *attention, Outputs(self.children, "rnn"), "dropout")

    def _options(self, lengths: Array | None) -> dict[str, dict[str, Any]]:
        options = {
            "padding": {"lengths": lengths},
            "attention": {"causal": self.masked, "key_lengths": lengths},
            "rnn": {"lengths": lengths},
        }
        return {name: given for name, given in options.items() if name in self.children}
