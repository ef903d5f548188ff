"""Attention of one query, the newest token of a generation, which sees all keys: a version of `ops.attention`.

Differs from the definition in that nothing is copied: there are no hidden rows to zero, and the query heads of a group
are the rows of one product with the head they share. The backward, which generation doesn't need, is the definition's.

`python -m benchmarks generate` measures it as a part of generating whole tokens.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any, NamedTuple

import numpy as np

from minilm.kernels.cpu.blocks import unlike
from minilm.ops.attention import attention, check_attention
from minilm.ops.softmax import shifted_exponential
from minilm.selection import Gradients, Version, problem, reference, register


class OneQueryCache(NamedTuple):
    """The arguments, borrowed: what backward needs is computed again."""

    q: np.ndarray  # (B, H, 1, D)
    k: np.ndarray  # (B, Hkv, Tk, D)
    v: np.ndarray  # (B, Hkv, Tk, Dv)
    scale: float | None


def refuses(
    q: Any, k: Any, v: Any, *, causal: Any = False, scale: Any = None, dropout: Any = 0.0, rng: Any = None, **masks: Any
) -> str | None:
    """Why a call is left to the definition, wrong input included; None if it is served."""
    if any(array is not None for array in masks.values()) or dropout != 0:
        return "serves attention without masks, bias and dropout"
    if wrong := unlike(q, k, v) or problem(check_attention, "attention", q, k, v, None, None, None, 0.0, None):
        return wrong
    if q.shape[2] != 1 or k.shape[2] == 0:
        return f"serves one query of at least one key, not {q.shape[2]} of {k.shape[2]}"
    return None


def one_query(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, *, scale: float | None = None, **_: Any
) -> tuple[np.ndarray, OneQueryCache]:
    """y (B, H, 1, Dv), as the definition has it. Of the other options `refuses` lets only `causal` be set."""
    (B, H, _, D), (Hkv, _, Dv) = q.shape, v.shape[1:]
    factor = D**-0.5 if scale is None else float(scale)
    scores = (q.reshape(B, Hkv, H // Hkv, D) * factor) @ k.swapaxes(-1, -2)  # (B, Hkv, G, Tk)
    _, e, total, _ = shifted_exponential(scores, axis=-1)
    y = (e @ v) / total  # (B, Hkv, G, Dv)
    return y.reshape(B, H, 1, Dv), OneQueryCache(q, k, v, scale)


def one_query_backward(
    dy: np.ndarray, cache: OneQueryCache, wrt: Container[str] = ("q", "k", "v", "bias")
) -> Gradients:
    """(dq, dk, dv, None), by the definition."""
    with reference():
        _, made = attention(cache.q, cache.k, cache.v, scale=cache.scale)
    return attention.backward(dy, made, wrt)


register("attention", Version("cpu.one_query", one_query, one_query_backward, OneQueryCache, refuses))
