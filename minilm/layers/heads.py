"""Attention between its projections: heads are split off, turned by their positions, attend, and are joined again.

    self-attention     x = [q k v]                 y = heads(attention(q, k, v))
    cross-attention    x = q, memory = [k v]

H heads of D channels; Hkv key and value heads, each shared by H/Hkv query heads [Ainslie et al. 2023]. Heads are
strided views of the projection's result: nothing is copied to split.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from minilm.backend import Array, array_namespace
from minilm.layers.base import Gradients, Layer
from minilm.layers.key_values import KeyValues, extend_past
from minilm.layers.positional import PositionalEncoding
from minilm.memory import empty_in
from minilm.ops.attention import attention, attention_backward, attention_weights


class AttentionCache(NamedTuple):
    """The caches of the parts; q, k and v are in the attention's."""

    query_rotation: Any
    key_rotation: Any
    attention: Any


class Heads(Layer):
    """x (B, T, (H+2·Hkv)·D) -> (B, T, H·D); with `cross` x (B, T, H·D) and memory (B, S, 2·Hkv·D)."""

    def __init__(
        self, heads: int, kv_heads: int, head_size: int, positions: PositionalEncoding, dropout: float, cross: bool
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_size = heads, kv_heads, head_size
        self.positions, self.dropout, self.reads_memory = positions, dropout, cross

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

    def _queries_keys_values(self, x: Array, memory: Array | None) -> tuple[Array, ...]:
        if memory is None:
            return self._split(x, self.heads, self.kv_heads, self.kv_heads)
        return self._split(x, self.heads) + self._split(memory, self.kv_heads, self.kv_heads)

    def forward(
        self, x: Array, memory: Array | None = None, *, causal: bool = False, key_lengths: Array | None = None,
        mask: Array | None = None, train: bool = True, cache: bool = True, rng: Any = None,
    ) -> tuple[Array, AttentionCache | None]:  # fmt: skip
        q, k, v = self._queries_keys_values(x, memory)
        q, query_rotation = self.positions.rotate(q, cache=cache)
        k, key_rotation = self.positions.rotate(k, cache=cache)
        bias = self.positions.bias(self.heads, q.shape[2], k.shape[2], x)
        y, attended = attention(
            q, k, v, causal=causal, key_lengths=key_lengths, mask=mask, bias=bias,
            dropout=self.dropout if train else 0.0, rng=rng, cache=cache,
        )  # (B, H, T, D)  # fmt: skip
        return self._join(y), AttentionCache(query_rotation, key_rotation, attended) if cache else None

    def backward(
        self, dy: Array, cache: AttentionCache, *, need_dx: bool = True, need_dmemory: bool = False
    ) -> tuple[Any, Gradients]:
        (dy,) = self._split(dy, self.heads)  # (B, H, T, D)
        dq, dk, dv, _ = attention_backward(dy, cache.attention, wrt=("q", "k", "v"))
        dq = self.positions.rotate_backward(dq, cache.query_rotation)
        dk = self.positions.rotate_backward(dk, cache.key_rotation)
        if not self.reads_memory:
            return self._join(dq, dk, dv), {}
        return (self._join(dq) if need_dx else None, self._join(dk, dv) if need_dmemory else None), {}

    def extend(self, x: Array, state: KeyValues | None = None) -> tuple[Array, KeyValues]:
        """Causal self-attention that continues; the state holds the keys and values so far."""
        if self.reads_memory:
            raise ValueError("attention: cross-attention needs its memory at each call; use forward")
        q, k, v = self._queries_keys_values(x, None)
        offset = 0 if state is None else state.length
        q, _ = self.positions.rotate(q, offset, cache=False)
        k, _ = self.positions.rotate(k, offset, cache=False)
        past = extend_past(state, k, v)  # (B, Hkv, offset+T, D)
        bias = self.positions.bias(self.heads, q.shape[2], past.length, x)
        y, _ = attention(q, past.keys, past.values, causal=True, bias=bias, cache=False)  # (B, H, T, D)
        return self._join(y), past

    def weights(self, x: Array, memory: Array | None = None, **masks: Any) -> Array:
        q, k, _ = self._queries_keys_values(x, memory)
        q, _ = self.positions.rotate(q, cache=False)
        k, _ = self.positions.rotate(k, cache=False)
        return attention_weights(q, k, bias=self.positions.bias(self.heads, q.shape[2], k.shape[2], x), **masks)
