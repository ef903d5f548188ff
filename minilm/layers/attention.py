"""The multi-head attention layer: projections around `ops.attention`.

    self-attention     [q k v] = in_proj(x)                        y = out_proj(heads(attention(q, k, v)))
    cross-attention    q = q_proj(x), [k v] = kv_proj(memory)      y = out_proj(heads(attention(q, k, v)))

x (B, T, C), H heads of D = C/H channels. With `kv_heads` fewer than H, groups of H/kv_heads query heads share one key
and value head [Ainslie et al. 2023]. Heads are strided views of the projection's result: nothing is copied to split.

[Vaswani et al. 2017, §3.2]
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minilm.backend import Array, array_namespace
from minilm.layers.base import Gradients, Layer, merge
from minilm.layers.key_values import KeyValues, extend
from minilm.layers.linear import Linear
from minilm.layers.positional import NoPositions, PositionalEncoding
from minilm.memory import empty_in
from minilm.ops.attention import attention, attention_backward, attention_weights


class MultiHeadAttentionCache(NamedTuple):
    """The caches of the parts; q, k and v are in the attention's."""

    inputs: tuple[Any, ...]  # of in_proj, or of q_proj and kv_proj
    query_rotation: Any
    key_rotation: Any
    attention: Any
    output: Any  # of out_proj


class MultiHeadAttention(Layer):
    """y = out_proj(attention(q, k, v)), x (B, T, C), y (B, T, C). The equations stand above.

    Children in_proj (C -> C + 2·Hkv·D, rows q, k, v as in PyTorch's in_proj_weight) and out_proj, or with `cross`
    q_proj, kv_proj and out_proj. `positions` is an encoding without parameters that acts inside attention (Rotary,
    ALiBi).
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
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"attention: dropout {dropout} is outside of [0, 1)")
        if positions is not None and positions.parameters():
            raise ValueError("attention: positions with parameters belong below the blocks, not inside attention")
        self.width, self.heads, self.kv_heads, self.dropout, self.cross = width, heads, kv_heads, dropout, cross
        self.head_size = width // heads
        self.positions = NoPositions() if positions is None else positions
        shared = 2 * kv_heads * self.head_size  # rows of k and v
        if cross:
            self.children["q_proj"] = Linear(width, width, bias, rng=rng, dtype=dtype)
            self.children["kv_proj"] = Linear(width, shared, bias, rng=rng, dtype=dtype)
        else:
            self.children["in_proj"] = Linear(width, width + shared, bias, rng=rng, dtype=dtype)
        self.children["out_proj"] = Linear(width, width, bias, rng=rng, dtype=dtype)

    # ---- heads in and out

    def _split(self, projected: Array, *counts: int) -> tuple[Array, ...]:
        """(B, T, ΣH·D) into views (B, H, T, D), one for each count of heads."""
        heads = projected.reshape(*projected.shape[:2], sum(counts), self.head_size)  # (B, T, ΣH, D)
        parts, start = [], 0
        for count in counts:
            parts.append(heads[:, :, start : start + count].transpose(0, 2, 1, 3))  # (B, H, T, D)
            start += count
        return tuple(parts)

    def _join(self, *parts: Array) -> Array:
        """The reverse of `_split`: each (B, H, T, D) is written once, into one (B, T, ΣH·D)."""
        batch, _, length, size = parts[0].shape
        count = sum(part.shape[1] for part in parts)
        if len(parts) == 1 and parts[0].transpose(0, 2, 1, 3).flags.c_contiguous:
            return parts[0].transpose(0, 2, 1, 3).reshape(batch, length, count * size)
        xp = array_namespace(*parts)
        heads = empty_in(xp, (batch, length, count, size), xp.result_type(*parts))  # (B, T, ΣH, D)
        start = 0
        for part in parts:
            heads[:, :, start : start + part.shape[1]] = part.transpose(0, 2, 1, 3)
            start += part.shape[1]
        return heads.reshape(batch, length, count * size)  # (B, T, ΣH·D)

    def _project(
        self, x: Array, memory: Array | None, train: bool, cache: bool, rng: Any = None
    ) -> tuple[tuple[Array, ...], tuple[Any, ...]]:
        """(q, k, v) in heads, and the caches of the projections."""
        if x.ndim != 3 or x.shape[-1] != self.width:
            raise ValueError(f"attention: x has shape {x.shape}, expected (B, T, {self.width})")
        if self.cross != (memory is not None):
            raise ValueError(
                "attention: cross-attention needs memory=..."
                if self.cross
                else "attention: this is self-attention, which takes no memory; build it with cross=True"
            )
        if not self.cross:
            qkv, qkv_cache = self.in_proj.forward(x, train=train, cache=cache, rng=rng)
            return self._split(qkv, self.heads, self.kv_heads, self.kv_heads), (qkv_cache,)
        q, q_cache = self.q_proj.forward(x, train=train, cache=cache, rng=rng)
        kv, kv_cache = self.kv_proj.forward(memory, train=train, cache=cache, rng=rng)
        return self._split(q, self.heads) + self._split(kv, self.kv_heads, self.kv_heads), (q_cache, kv_cache)

    # ---- the layer

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
        (q, k, v), inputs = self._project(x, memory, train, cache, rng)
        q, query_rotation = self.positions.rotate(q, cache=cache)
        k, key_rotation = self.positions.rotate(k, cache=cache)
        heads, attended = attention(
            q,
            k,
            v,
            causal=causal,
            key_lengths=key_lengths,
            mask=mask,
            bias=self.positions.bias(self.heads, q.shape[2], k.shape[2], x),
            dropout=self.dropout if train else 0.0,
            rng=rng,
            cache=cache,
        )  # (B, H, T, D)
        y, output = self.out_proj.forward(self._join(heads), train=train, cache=cache, rng=rng)
        return y, MultiHeadAttentionCache(inputs, query_rotation, key_rotation, attended, output) if cache else None

    def backward(
        self, dy: Array, cache: MultiHeadAttentionCache, *, need_dx: bool = True, need_dmemory: bool | None = None
    ) -> tuple[Any, Gradients]:
        """(dx, gradients), or with `cross` ((dx, dmemory), gradients). `need_dmemory` is `need_dx` if not given."""
        need_dmemory = (need_dx if need_dmemory is None else need_dmemory) and self.cross
        inputs = [self.q_proj, self.kv_proj] if self.cross else [self.in_proj]
        below = need_dx or need_dmemory or not all(layer.is_frozen for layer in inputs)
        dheads, output = self.out_proj.backward(dy, cache.output, need_dx=below)
        grads = merge({}, output, "out_proj.")
        dx = dmemory = None
        if below:
            (dheads,) = self._split(dheads, self.heads)  # (B, H, T, D)
            dq, dk, dv, _ = attention_backward(dheads, cache.attention, wrt=("q", "k", "v"))
            dq = self.positions.rotate_backward(dq, cache.query_rotation)
            dk = self.positions.rotate_backward(dk, cache.key_rotation)
            if self.cross:
                dx, own = self.q_proj.backward(self._join(dq), cache.inputs[0], need_dx=need_dx)
                dmemory, shared = self.kv_proj.backward(self._join(dk, dv), cache.inputs[1], need_dx=need_dmemory)
                merge(merge(grads, own, "q_proj."), shared, "kv_proj.")
            else:
                dx, own = self.in_proj.backward(self._join(dq, dk, dv), cache.inputs[0], need_dx=need_dx)
                merge(grads, own, "in_proj.")
        return ((dx, dmemory) if self.cross else dx), grads

    # ---- inference

    def step(self, x: Array, past: KeyValues | None = None) -> tuple[Array, KeyValues]:
        """Causal self-attention that continues: x (B, T, C) follows the tokens in `past` (None at the start).

        Returns what a causal `forward` of the whole sequence gives at these positions, and the longer past.
        """
        (q, k, v), _ = self._project(x, None, train=False, cache=False)
        offset = 0 if past is None else past.length
        q, _ = self.positions.rotate(q, offset, cache=False)
        k, _ = self.positions.rotate(k, offset, cache=False)
        past = extend(past, k, v)  # (B, Hkv, offset+T, D)
        bias = self.positions.bias(self.heads, q.shape[2], past.length, x)
        heads, _ = attention(q, past.keys, past.values, causal=True, bias=bias, cache=False)  # (B, H, T, D)
        y, _ = self.out_proj.forward(self._join(heads), train=False, cache=False)
        return y, past

    def weights(
        self,
        x: Array,
        memory: Array | None = None,
        *,
        causal: bool = False,
        key_lengths: Array | None = None,
        mask: Array | None = None,
    ) -> Array:
        """The attention weights (B, H, T, S), for pictures: row t says where position t looks. No dropout."""
        (q, k, _), _ = self._project(x, memory, train=False, cache=False)
        q, _ = self.positions.rotate(q, cache=False)
        k, _ = self.positions.rotate(k, cache=False)
        bias = self.positions.bias(self.heads, q.shape[2], k.shape[2], x)
        return attention_weights(q, k, causal=causal, key_lengths=key_lengths, mask=mask, bias=bias)
