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
from minilm.layers.positional import KINDS, positional_encoding
from minilm.layers.recurrent import GRU, LSTM, RNN
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

    embedding_size, width (of hidden, in each direction), layers, cell ("rnn", "lstm", "gru"), bidirectional
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
        width: int,
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
            vocab_size=vocab_size, embedding_size=embedding_size, width=width, layers=layers,
            conv_kernel=conv_kernel, heads=heads or None, context=context,
        )  # fmt: skip
        one_of("cell", cell, CELLS)
        if positions in ("rotary", "alibi") and not heads:
            raise ValueError(f"{positions} positions act inside attention; set heads, or choose other positions")
        if heads and embedding_size % heads:
            raise ValueError(f"embedding size {embedding_size} must be a multiple of the number of heads, {heads}")
        encoding = positional_encoding(positions, context, embedding_size, max(heads, 1), rng, dtype)
        drawn = {"rng": rng, "dtype": dtype}
        self.vocab_size, self.width = vocab_size, width * (2 if bidirectional else 1)
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
            embedding_size, width, layers, bidirectional, dropout, initialization=initialization, **drawn
        )
        below = [name for name in self.children if name not in ("attention", "rnn")]
        attention = ("attention", "dropout") if heads else ()
        self.chain = Chain(self.children, *below, *attention, Outputs(self.children, "rnn"), "dropout")

    def _options(self, lengths: Array | None) -> dict[str, dict[str, Any]]:
        own: dict[str, Any] = {"lengths": lengths}
        options = {"padding": own, "attention": {"causal": self.masked, "key_lengths": lengths}, "rnn": own}
        return {name: given for name, given in options.items() if name in self.children}
