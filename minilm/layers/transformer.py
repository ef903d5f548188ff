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

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minilm.backend import Array
from minilm.layers.activation import Activation
from minilm.layers.attention import MultiHeadAttention
from minilm.layers.base import Gradients, Layer, chain_backward, chain_forward, merge
from minilm.layers.dropout import Dropout
from minilm.layers.key_values import KeyValues
from minilm.layers.linear import Linear
from minilm.layers.normalization import LayerNorm, RMSNorm
from minilm.layers.positional import PositionalEncoding
from minilm.memory import add

NORMS = ("layer", "rms")
FEED_FORWARD = ("linear1", "activation", "dropout", "linear2")


def make_norm(kind: str, width: int, *, bias: bool = True, eps: float | None = None, dtype: str = "float32") -> Layer:
    """The norm named "layer" or "rms", with its own default ε where none is given."""
    if kind not in NORMS:
        raise ValueError(f"norm {kind!r} is unknown; choose one of {', '.join(NORMS)}")
    options = {} if eps is None else {"eps": eps}
    return (
        LayerNorm(width, bias=bias, dtype=dtype, **options)
        if kind == "layer"
        else RMSNorm(width, dtype=dtype, **options)
    )


class ResidualCache(NamedTuple):
    """The caches of one sub-layer's parts."""

    norm: Any
    inner: Any
    dropout: Any


class _ResidualBlock(Layer):
    """What encoder and decoder blocks share: the residual connection and the feed-forward sub-layer."""

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int | None = None,
        *,
        attentions: dict[str, dict[str, Any]],
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
        if hidden < 1:
            raise ValueError(f"Transformer block: feed-forward size {hidden} must be at least 1")
        self.width, self.norm_first = width, norm_first
        for name, options in attentions.items():
            self.children[name] = MultiHeadAttention(
                width, heads, dropout=dropout, bias=bias, rng=rng, dtype=dtype, **options
            )
        self.children["linear1"] = Linear(width, hidden, bias, rng=rng, dtype=dtype)
        self.children["activation"] = Activation(activation)
        self.children["dropout"] = Dropout(dropout)
        self.children["linear2"] = Linear(hidden, width, bias, rng=rng, dtype=dtype)
        for number in range(1, len(attentions) + 2):
            self.children[f"norm{number}"] = make_norm(norm, width, bias=bias, eps=eps, dtype=dtype)

    def _residual(
        self, norm: str, inner: Callable[[Array], tuple[Array, Any]], x: Array, train: bool, cache: bool, rng: Any
    ) -> tuple[Array, ResidualCache]:
        """One sub-layer: `inner` within norm, dropout and the residual connection."""
        h, norm_cache = self.children[norm].forward(x, train=train, cache=cache) if self.norm_first else (x, None)
        h, inner_cache = inner(h)
        h, dropout_cache = self.dropout.forward(h, train=train, cache=cache, rng=rng)
        y = add(x, h)
        if not self.norm_first:
            y, norm_cache = self.children[norm].forward(y, train=train, cache=cache)
        return y, ResidualCache(norm_cache, inner_cache, dropout_cache)

    def _residual_backward(
        self,
        norm: str,
        inner: Callable[[Array, Any, bool], Array | None],
        trained: bool,
        dy: Array,
        cache: ResidualCache,
        grads: Gradients,
        need_dx: bool,
    ) -> Array | None:
        """dx of one sub-layer; the norm's gradients are added to `grads`.

        `inner(dh, cache, need_dx)` goes back through the sub-layer itself, and is called only where it is `trained`, or
        where what lies below it needs a gradient.
        """
        layer = self.children[norm]
        if self.norm_first:
            below = need_dx or not layer.is_frozen
            dx = dy if need_dx else None
            if below or trained:
                dh, _ = self.dropout.backward(dy, cache.dropout)
                dh = inner(dh, cache.inner, below)
                if below:
                    dh, own = layer.backward(dh, cache.norm, need_dx=need_dx)
                    merge(grads, own, f"{norm}.")
                    dx = add(dy, dh) if need_dx else None
            return dx
        below = need_dx or trained
        dsum, own = layer.backward(dy, cache.norm, need_dx=below)
        merge(grads, own, f"{norm}.")
        if not below:
            return None
        dh, _ = self.dropout.backward(dsum, cache.dropout)
        dh = inner(dh, cache.inner, need_dx)
        return add(dsum, dh) if need_dx else None

    @property
    def _feed_forward(self) -> dict[str, Layer]:
        return {name: self.children[name] for name in FEED_FORWARD}

    def _trained(self, *names: str) -> bool:
        return not all(self.children[name].is_frozen for name in names)

    def _feed_forward_backward(
        self, norm: str, dy: Array, cache: ResidualCache, grads: Gradients, need_dx: bool
    ) -> Array | None:
        def inner(dh: Array, inner_cache: Any, need: bool) -> Array | None:
            dh, own = chain_backward(self._feed_forward, dh, inner_cache, need_dx=need)
            merge(grads, own)
            return dh

        return self._residual_backward(norm, inner, self._trained(*FEED_FORWARD), dy, cache, grads, need_dx)

    def _attention_backward(
        self, norm: str, name: str, dy: Array, cache: ResidualCache, grads: Gradients, need_dx: bool
    ) -> Array | None:
        def inner(dh: Array, inner_cache: Any, need: bool) -> Array | None:
            dh, own = self.children[name].backward(dh, inner_cache, need_dx=need)
            merge(grads, own, f"{name}.")
            return dh

        return self._residual_backward(norm, inner, self._trained(name), dy, cache, grads, need_dx)


class TransformerEncoderBlock(_ResidualBlock):
    """Self-attention and feed-forward. x (B, T, C) -> (B, T, C).

    hidden         width of the feed-forward layer, 4·C if not given
    activation     "relu", "gelu", "gelu-tanh" or "silu"
    norm           "layer" or "rms"; `norm_first` puts it in front of each sub-layer (pre-norm)
    bias           whether linear maps and layer norms have one
    kv_heads, positions     as in MultiHeadAttention
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int | None = None,
        *,
        kv_heads: int | None = None,
        positions: PositionalEncoding | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            width,
            heads,
            hidden,
            attentions={"self_attn": {"kv_heads": kv_heads, "positions": positions}},
            **options,
        )

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
    ) -> tuple[Array, tuple[ResidualCache, ResidualCache] | None]:
        """y, cache. causal: position t sees 0 … t; key_lengths (B,) hide padding; mask is `ops.attention`'s."""
        masks = {"causal": causal, "key_lengths": key_lengths, "mask": mask}
        x, attended = self._residual(
            "norm1",
            lambda h: self.self_attn.forward(h, train=train, cache=cache, rng=rng, **masks),
            x,
            train,
            cache,
            rng,
        )
        x, fed = self._residual(
            "norm2",
            lambda h: chain_forward(self._feed_forward, h, train=train, cache=cache, rng=rng),
            x,
            train,
            cache,
            rng,
        )
        return x, ((attended, fed) if cache else None)

    def backward(self, dy: Array, cache: Any, *, need_dx: bool = True) -> tuple[Array | None, Gradients]:
        attended, fed = cache
        grads: Gradients = {}
        below = need_dx or self._trained("self_attn", "norm1")
        dy = self._feed_forward_backward("norm2", dy, fed, grads, below)
        if below:
            dy = self._attention_backward("norm1", "self_attn", dy, attended, grads, need_dx)
        return (dy if need_dx else None), grads

    def step(self, x: Array, past: KeyValues | None = None) -> tuple[Array, KeyValues]:
        """Causal inference that continues: x (B, T, C) follows the tokens in `past` (None at the start)."""
        grown = []

        def attend(h: Array) -> tuple[Array, None]:
            y, longer = self.self_attn.step(h, past)
            grown.append(longer)
            return y, None

        x, _ = self._residual("norm1", attend, x, False, False, None)
        x, _ = self._residual(
            "norm2", lambda h: chain_forward(self._feed_forward, h, train=False, cache=False), x, False, False, None
        )
        return x, grown[0]

    def attention_weights(self, x: Array, **masks: Any) -> Array:
        """The weights (B, H, T, T) with which the self-attention of this block looks at its input x, for pictures."""
        if self.norm_first:
            x, _ = self.norm1.forward(x, train=False, cache=False)
        return self.self_attn.weights(x, **masks)


class TransformerDecoderBlock(_ResidualBlock):
    """Causal self-attention, attention to a memory, feed-forward. x (B, T, C), memory (B, S, C) -> (B, T, C).

    Options are those of TransformerEncoderBlock. Children self_attn and multihead_attn (the one that reads the memory).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int | None = None,
        *,
        kv_heads: int | None = None,
        positions: PositionalEncoding | None = None,
        **options: Any,
    ) -> None:
        attentions = {
            "self_attn": {"kv_heads": kv_heads, "positions": positions},
            "multihead_attn": {"kv_heads": kv_heads, "cross": True},
        }
        super().__init__(width, heads, hidden, attentions=attentions, **options)

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
    ) -> tuple[Array, tuple[ResidualCache, ResidualCache, ResidualCache] | None]:
        """y, cache. key_lengths and mask are those of x, memory_lengths and memory_mask those of the memory."""
        own = {"causal": causal, "key_lengths": key_lengths, "mask": mask, "train": train, "cache": cache, "rng": rng}
        cross = {"key_lengths": memory_lengths, "mask": memory_mask, "train": train, "cache": cache, "rng": rng}
        x, attended = self._residual("norm1", lambda h: self.self_attn.forward(h, **own), x, train, cache, rng)
        x, read = self._residual(
            "norm2", lambda h: self.multihead_attn.forward(h, memory, **cross), x, train, cache, rng
        )
        x, fed = self._residual(
            "norm3",
            lambda h: chain_forward(self._feed_forward, h, train=train, cache=cache, rng=rng),
            x,
            train,
            cache,
            rng,
        )
        return x, ((attended, read, fed) if cache else None)

    def backward(
        self, dy: Array, cache: Any, *, need_dx: bool = True, need_dmemory: bool | None = None
    ) -> tuple[tuple[Array | None, Array | None], Gradients]:
        """((dx, dmemory), gradients). `need_dmemory` is `need_dx` if not given."""
        need_dmemory = need_dx if need_dmemory is None else need_dmemory
        attended, read, fed = cache
        grads: Gradients = {}
        dmemory: list[Array | None] = [None]

        def through_memory(dh: Array, inner_cache: Any, need: bool) -> Array | None:
            (dh, dmemory[0]), own = self.multihead_attn.backward(
                dh, inner_cache, need_dx=need, need_dmemory=need_dmemory
            )
            merge(grads, own, "multihead_attn.")
            return dh

        above_self = need_dx or self._trained("self_attn", "norm1")
        reads = need_dmemory or self._trained("multihead_attn")
        dy = self._feed_forward_backward("norm3", dy, fed, grads, above_self or reads or self._trained("norm2"))
        if above_self or reads or self._trained("norm2"):
            dy = self._residual_backward("norm2", through_memory, reads, dy, read, grads, above_self)
        if above_self:
            dy = self._attention_backward("norm1", "self_attn", dy, attended, grads, need_dx)
        return ((dy if need_dx else None), dmemory[0]), grads
