"""The multi-head attention layer: projections around `ops.attention`.

    self-attention     [q k v] = in_proj(x)                        y = out_proj(heads(attention(q, k, v)))
    cross-attention    q = q_proj(x), [k v] = kv_proj(memory)      y = out_proj(heads(attention(q, k, v)))

x (B, T, C), H heads of D = C/H channels. With `kv_heads` fewer than H, groups of H/kv_heads query heads share one key
and value head. What happens between the projections: `layers.heads`.

[Vaswani et al. 2017, §3.2]
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minilm.backend import Array
from minilm.checks import number
from minilm.layers.base import Gradients, merge, under_first_names
from minilm.layers.chain import Chain, Composite
from minilm.layers.heads import Heads
from minilm.layers.linear import Linear
from minilm.layers.positional import NoPositions, PositionalEncoding


class MultiHeadAttentionCache(NamedTuple):
    chain: Any
    memory: Any  # of kv_proj


class MultiHeadAttention(Composite):
    """y = out_proj(attention(q, k, v)), x (B, T, C), y (B, T, C). The equations stand above.

    Children in_proj (C -> C + 2·Hkv·D, rows q, k, v as in PyTorch's in_proj_weight), attention and out_proj, or with
    `cross` q_proj, kv_proj, attention and out_proj. `positions` is an encoding without parameters that acts inside
    attention (Rotary, ALiBi).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        kv_heads: int | None = None,
        dropout: float = 0.0,
        bias: bool = True,
        cross: bool = False,
        positions: PositionalEncoding | None = None,
        rng: np.random.Generator,
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        kv_heads = heads if kv_heads is None else kv_heads
        if width < 1 or heads < 1 or width % heads:
            raise ValueError(f"attention: width {width} must be a positive multiple of the number of heads, {heads}")
        if kv_heads < 1 or heads % kv_heads:
            raise ValueError(f"attention: {heads} heads can't share {kv_heads} key/value heads; choose a divisor")
        number("attention: dropout", dropout, below=1)
        if positions is not None and positions.parameters():
            raise ValueError("attention: positions with parameters belong below the blocks, not inside attention")
        self.width, self.heads, self.kv_heads = width, heads, kv_heads
        size = width // heads
        shared = 2 * kv_heads * size  # rows of k and v
        first = "q_proj" if cross else "in_proj"
        self.children[first] = Linear(width, width if cross else width + shared, bias, rng=rng, dtype=dtype)
        if cross:
            self.children["kv_proj"] = Linear(width, shared, bias, rng=rng, dtype=dtype)
        positions = NoPositions() if positions is None else positions
        self.children["attention"] = Heads(heads, kv_heads, size, positions, dropout, cross)
        self.children["out_proj"] = Linear(width, width, bias, rng=rng, dtype=dtype)
        self.chain = Chain(self.children, first, "attention", "out_proj")

    def _check(self, x: Array, memory: Array | None) -> None:
        if x.ndim != 3 or x.shape[-1] != self.width:
            raise ValueError(f"attention: x has shape {x.shape}, expected (B, T, {self.width})")
        if self.reads_memory and memory is None:
            raise ValueError("attention: cross-attention needs memory=...")
        if not self.reads_memory and memory is not None:
            raise ValueError("attention: this is self-attention, which takes no memory; build it with cross=True")

    def forward(
        self,
        x: Array,
        memory: Array | None = None,
        *,
        causal: bool = False,
        key_lengths: Array | None = None,
        mask: Array | None = None,
        train: bool = True,
        cache: bool = True,
        rng: Any = None,
    ) -> tuple[Array, MultiHeadAttentionCache | None]:
        """y, cache. memory (B, S, C) for cross-attention; the masks are those of `ops.attention`."""
        self._check(x, memory)
        options = {"causal": causal, "key_lengths": key_lengths, "mask": mask}
        projected = None
        if self.reads_memory:
            options["memory"], projected = self.kv_proj.forward(memory, train=train, cache=cache, rng=rng)
        y, own = self.chain.forward(x, train=train, cache=cache, rng=rng, attention=options)
        return y, None if own is None else MultiHeadAttentionCache(own, projected)

    def backward(
        self, dy: Array, cache: MultiHeadAttentionCache, *, need_dx: bool = True, need_dmemory: bool | None = None
    ) -> tuple[Any, Gradients]:
        """(dx, gradients), or with `cross` ((dx, dmemory), gradients). `need_dmemory` is `need_dx` if not given."""
        if not self.reads_memory:
            return super().backward(dy, cache.chain, need_dx=need_dx)
        need_dmemory = need_dx if need_dmemory is None else need_dmemory
        below = need_dmemory or not self.kv_proj.is_frozen
        (dx, dkv), grads = self.chain.backward(dy, cache.chain, need_dx=need_dx, need_dmemory=below)
        dmemory = None
        if below:
            dmemory, own = self.kv_proj.backward(dkv, cache.memory, need_dx=need_dmemory)
            merge(grads, own, "kv_proj.")
        return (dx, dmemory), under_first_names(self, grads)

    def weights(self, x: Array, memory: Array | None = None, **masks: Any) -> Array:
        """The attention weights (B, H, T, S), for pictures: row t says where position t looks. No dropout."""
        self._check(x, memory)
        x, _ = self.children["q_proj" if self.reads_memory else "in_proj"].forward(x, train=False, cache=False)
        if self.reads_memory:
            memory, _ = self.kv_proj.forward(memory, train=False, cache=False)
        return self.attention.weights(x, memory, **masks)
