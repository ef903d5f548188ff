"""Transformer blocks: sub-layers, each inside a residual connection with dropout and a norm.

    pre-norm    y = x + dropout(f(norm(x)))         [Xiong et al. 2020]   the path through x is never normalised
    post-norm   y = norm(x + dropout(f(x)))         [Vaswani et al. 2017]

    encoder block    f = self-attention, feed-forward
    decoder block    f = causal self-attention, attention to a memory, feed-forward
    feed-forward     linear2(dropout(activation(linear1(x))))

An encoder block with causal=True is the block of a GPT. Children are named as in PyTorch's TransformerEncoderLayer
and TransformerDecoderLayer.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from minilm.backend import Array
from minilm.checks import one_of, whole
from minilm.layers.activation import Activation
from minilm.layers.attention import MultiHeadAttention
from minilm.layers.base import Layer
from minilm.layers.chain import Chain, ChainCache, Composite
from minilm.layers.dropout import Dropout
from minilm.layers.linear import Linear
from minilm.layers.normalization import LayerNorm, RMSNorm
from minilm.layers.positional import PositionalEncoding
from minilm.layers.residual import Residual

NORMS = ("layer", "rms")
FEED_FORWARD = ("linear1", "activation", "dropout", "linear2")


def make_norm(kind: str, width: int, *, bias: bool = True, eps: float | None = None, dtype: str = "float32") -> Layer:
    """The norm named "layer" or "rms", with its own default ε where none is given."""
    one_of("norm", kind, NORMS)
    options: dict[str, Any] = {"dtype": dtype} if eps is None else {"dtype": dtype, "eps": eps}
    return RMSNorm(width, **options) if kind == "rms" else LayerNorm(width, bias=bias, **options)


class _Block(Composite):
    """What encoder and decoder blocks share: one sub-layer for each attention, then the feed-forward one."""

    attentions: ClassVar[dict[str, bool]]  # by the child's name, whether it reads the memory

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int | None = None,
        *,
        kv_heads: int | None = None,
        positions: PositionalEncoding | None = None,
        dropout: float = 0.0,
        activation: str = "relu",
        norm: str = "layer",
        norm_first: bool = False,
        bias: bool = True,
        eps: float | None = None,
        rng: np.random.Generator,
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        hidden = 4 * width if hidden is None else hidden
        whole("Transformer block: hidden", hidden, 1)
        self.width, self.norm_first = width, norm_first
        for name, cross in self.attentions.items():
            self.children[name] = MultiHeadAttention(
                width, heads, kv_heads=kv_heads, dropout=dropout, bias=bias, cross=cross,
                positions=None if cross else positions, rng=rng, dtype=dtype,
            )  # fmt: skip
        self.children["linear1"] = Linear(width, hidden, bias, rng=rng, dtype=dtype)
        self.children["activation"] = Activation(activation)
        self.children["dropout"] = Dropout(dropout)
        self.children["linear2"] = Linear(hidden, width, bias, rng=rng, dtype=dtype)
        steps: list[str | Chain] = []
        for number, inner in enumerate([*((name,) for name in self.attentions), FEED_FORWARD], 1):
            name = f"norm{number}"
            self.children[name] = make_norm(norm, width, bias=bias, eps=eps, dtype=dtype)
            if norm_first:
                steps.append(Residual(self.children, name, *inner, "dropout"))
            else:
                steps += [Residual(self.children, *inner, "dropout"), name]
        self.chain = Chain(self.children, *steps)


class TransformerEncoderBlock(_Block):
    """Self-attention and feed-forward. x (B, T, C) -> (B, T, C).

    hidden         width of the feed-forward layer, 4·C if not given
    activation     "relu", "gelu", "gelu-tanh" or "silu"
    norm           "layer" or "rms"; `norm_first` puts it in front of each sub-layer (pre-norm)
    bias           whether linear maps and layer norms have one
    kv_heads, positions     as in MultiHeadAttention
    """

    attentions: ClassVar = {"self_attn": False}

    def forward(
        self,
        x: Array,
        *,
        causal: bool = False,
        key_lengths: Array | None = None,
        mask: Array | None = None,
        train: bool = True,
        cache: bool = True,
        rng: Any = None,
    ) -> tuple[Array, ChainCache | None]:
        """y, cache. causal: position t sees 0 … t; key_lengths (B,) hide padding; mask is `ops.attention`'s."""
        masks = {"causal": causal, "key_lengths": key_lengths, "mask": mask}
        return self.chain.forward(x, train=train, cache=cache, rng=rng, self_attn=masks)

    def attention_weights(self, x: Array, **masks: Any) -> Array:
        """The weights (B, H, T, T) with which the self-attention of this block looks at its input x, for pictures."""
        if self.norm_first:
            x, _ = self.norm1.forward(x, train=False, cache=False)
        return self.self_attn.weights(x, **masks)


class TransformerDecoderBlock(_Block):
    """Causal self-attention, attention to a memory, feed-forward. x (B, T, C), memory (B, S, C) -> (B, T, C).

    Options are those of TransformerEncoderBlock. Children self_attn and multihead_attn (the one that reads the memory).
    """

    attentions: ClassVar = {"self_attn": False, "multihead_attn": True}

    def forward(
        self,
        x: Array,
        memory: Array,
        *,
        causal: bool = True,
        key_lengths: Array | None = None,
        mask: Array | None = None,
        memory_lengths: Array | None = None,
        memory_mask: Array | None = None,
        train: bool = True,
        cache: bool = True,
        rng: Any = None,
    ) -> tuple[Array, ChainCache | None]:
        """y, cache. key_lengths and mask are those of x, memory_lengths and memory_mask those of the memory.

        backward gives ((dx, dmemory), gradients); its `need_dmemory` is `need_dx` if not given.
        """
        own = {"causal": causal, "key_lengths": key_lengths, "mask": mask}
        cross = {"memory": memory, "key_lengths": memory_lengths, "mask": memory_mask}
        return self.chain.forward(x, train=train, cache=cache, rng=rng, self_attn=own, multihead_attn=cross)
