"""Scaled dot-product attention with every mask, grouped heads and a bias: the plain definition.

    S = scale · q kᵀ + bias      P = softmax over the visible keys of S      y = P v

    q (B, H, Tq, D)    k (B, Hkv, Tk, D)    v (B, Hkv, Tk, Dv)    y (B, H, Tq, Dv)

Hkv divides H: query head h reads key/value head h // (H / Hkv), so that a group of heads shares one (grouped queries).
Scores of all pairs are held at once: memory and time grow with Tq·Tk. Tiled versions, which don't, are in `kernels/`.

What a query may see (rows: queries, columns: keys; 1 = visible):

    causal, 4 × 4     causal, 2 × 4     causal, 4 × 2     key_lengths 3     causal and key_lengths 2
      1 0 0 0           1 1 1 0           0 0               1 1 1 0           1 0 0 0
      1 1 0 0           1 1 1 1           0 0               1 1 1 0           1 1 0 0
      1 1 1 0                             1 0               1 1 1 0           1 1 0 0
      1 1 1 1                             1 1               1 1 1 0           1 1 0 0

Causal is aligned at the end: the last query sees every key, as when the queries are the newest tokens of a longer past.
A row without a visible key gives y = 0 and no gradient. Keys and values that no query may see, and queries that see
nothing, count as zeros whatever they hold, NaN included. A bias of −∞ is a mask.

[Vaswani et al. 2017, "Attention Is All You Need", section 3.2.1; Ainslie et al. 2023, "GQA", section 2.2]
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from math import inf
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from minilm.backend import Array, array_namespace, floating_namespace, uniform
from minilm.selection import backward_of, op


class AttentionCache(NamedTuple):
    """What backward reads. P is kept, once, (B·H·Tq·Tk numbers) rather than recomputed: no second product and softmax.

    Dropout adds its mask (a byte a weight). q, k, v are borrowed, or copies where hidden rows were zeroed.
    """

    q: Array  # (B, H, Tq, D)
    k: Array  # (B, Hkv, Tk, D)
    v: Array  # (B, Hkv, Tk, Dv)
    y: Array  # (B, H, Tq, Dv)     for Σ_j P_ij ∂L/∂P_ij = dy_i · y_i
    weights: Array  # (B, H, Tq, Tk)  P, before dropout
    kept: Array | None  # (B, H, Tq, Tk)  boolean, what dropout left
    keep_scale: float  # 1 / (1 − dropout), 0 where everything is dropped
    scale: float
    bias_shape: tuple[int, ...] | None


@op
def attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool = False,
    key_lengths: Array | Sequence[int] | None = None,
    mask: Array | None = None,
    bias: Array | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    rng: Any = None,
    cache: bool = True,
) -> tuple[Array, AttentionCache | None]:
    """y = dropout(softmax(scale · q kᵀ + bias)) v over the visible keys; y (B, H, Tq, Dv).

    causal       query i sees keys j ≤ i + Tk − Tq
    key_lengths  (B,) integers: sequence b has keys 0..key_lengths[b]−1. A host array is checked to lie in 0..Tk
    mask         boolean, True = may look; broadcasts to (B, H, Tq, Tk)
    bias         added to the scores, differentiable; broadcasts to (B, H, Tq, Tk)
    scale        1/√D by default
    dropout      the probability with which a weight is set to 0, the others times 1/(1 − dropout); drawn from `rng`

    Masks of all kinds combine: a key is seen where each allows it. Without a cache P is not kept.
    Raises ValueError where shapes do not fit, TypeError for a mask that is not boolean or lengths that are no integers.
    """
    xp, key_lengths, scale = _check(q, k, v, key_lengths, mask, bias, scale)
    dropout = float(dropout)
    if not 0.0 <= dropout <= 1.0:
        raise ValueError(f"attention: dropout = {dropout} is no probability; expected 0 <= dropout <= 1")
    if dropout > 0.0 and rng is None:
        raise ValueError(f"attention: dropout = {dropout} needs a generator; pass rng=minilm.backend.generator(seed)")
    visible = _visible(xp, q, k, causal, key_lengths, mask, bias)
    only_causal = causal and key_lengths is None and mask is None and bias is None
    if visible is not None and not (only_causal and q.shape[2] <= k.shape[2]):  # there, every row sees and is seen
        q, k, v = _zero_hidden(visible, q, k, v)
    weights = _weights(xp, q, k, visible, bias, scale)  # (B, H, Tq, Tk)

    kept, keep_scale, dropped = None, 1.0 / (1.0 - dropout) if dropout < 1.0 else 0.0, weights
    if dropout > 0.0:
        kept = uniform(rng, weights.shape, like=weights) >= dropout
        dropped = weights * kept
    y = _join(_split(dropped, k) @ v[:, :, None])  # (B, H, Tq, Dv)
    if dropout > 0.0:
        y = y * keep_scale  # here, and not on the weights: Dv numbers a row instead of Tk
    if not cache:
        return y, None
    return y, AttentionCache(q, k, v, y, weights, kept, keep_scale, scale, None if bias is None else bias.shape)


@backward_of(attention)
def attention_backward(
    dy: Array, cache: AttentionCache, wrt: Container[str] = ("q", "k", "v", "bias")
) -> tuple[Array | None, Array | None, Array | None, Array | None]:
    """With P̃ the weights after dropout, dP̃ = dy vᵀ, and M the dropout mask divided by 1 − dropout:

        dv = P̃ᵀ dy        dP = M ∘ dP̃        dS_ij = P_ij (dP_ij − Σ_k P_ik dP_ik)
        dq = scale · dS k        dk = scale · dSᵀ q        dbias = dS

    The sum is Σ_k P_ik dP_ik = Σ_k P̃_ik dP̃_ik = dy_i · y_i: one dot product over Dv. It is the softmax's own gradient,
    what normalising the row takes away. Masked pairs have P = 0, hence dS = 0.
    dk and dv are summed over the query heads of a group, dbias over the axes along which the bias was broadcast.
    Returns (dq, dk, dv, dbias), None for what `wrt` does not name and for a bias that was not given.
    """
    q, k, v, y, weights, kept, keep_scale, scale, bias_shape = cache
    dq = dk = dv = dbias = None
    delta = (dy * y).sum(axis=-1, keepdims=True)  # (B, H, Tq, 1)
    if kept is not None:
        dy = dy * keep_scale
    if "v" in wrt:
        dropped = weights if kept is None else weights * kept
        dv = _sum_group(_split(dropped, k).swapaxes(-1, -2) @ _split(dy, k))  # (B, Hkv, Tk, Dv)
    wants_bias = bias_shape is not None and "bias" in wrt
    if not (wants_bias or "q" in wrt or "k" in wrt):
        return dq, dk, dv, dbias

    dweights = _join(_split(dy, k) @ v[:, :, None].swapaxes(-1, -2))  # (B, H, Tq, Tk)
    if kept is not None:
        dweights *= kept
    dscores = dweights - delta
    dscores *= weights  # in place: a new array, and its dtype is that of y, which P went into
    grouped = _split(dscores, k)  # (B, Hkv, G, Tq, Tk)
    if "q" in wrt:
        dq = _join(grouped @ k[:, :, None]) * scale  # (B, H, Tq, D)
    if "k" in wrt:
        dk = _sum_group(grouped.swapaxes(-1, -2) @ _split(q, k)) * scale  # (B, Hkv, Tk, D)
    if wants_bias:
        dbias = _sum_to(dscores, bias_shape)
    return dq, dk, dv, dbias


def attention_weights(
    q: Array,
    k: Array,
    *,
    causal: bool = False,
    key_lengths: Array | Sequence[int] | None = None,
    mask: Array | None = None,
    bias: Array | None = None,
    scale: float | None = None,
) -> Array:
    """P (B, H, Tq, Tk), the weights of `attention` with the same options, for pictures: rows sum to 1, or to 0."""
    xp, key_lengths, scale = _check(q, k, k, key_lengths, mask, bias, scale)
    visible = _visible(xp, q, k, causal, key_lengths, mask, bias)
    q, k, _ = (q, k, k) if visible is None else _zero_hidden(visible, q, k, k)
    return _weights(xp, q, k, visible, bias, scale)


# ---- scores and masks


def _weights(xp: ModuleType, q: Array, k: Array, visible: Array | None, bias: Array | None, scale: float) -> Array:
    """softmax(scale · q kᵀ + bias) over the visible keys. One array (B, H, Tq, Tk), worked on in place."""
    scores = _join(_split(q * scale, k) @ k[:, :, None].swapaxes(-1, -2))  # (B, H, Tq, Tk)
    if bias is not None:
        scores = scores + bias  # not in place: a complex bias may meet real scores
    if visible is not None:
        xp.copyto(scores, -inf, where=~visible)
    if scores.shape[-1] == 0:
        return scores  # no keys: there is no maximum to take
    peak = scores.real.max(axis=-1, keepdims=True)  # (B, H, Tq, 1)
    scores -= xp.where(peak == -inf, 0.0, peak)  # a row that sees nothing: −∞ − (−∞) would be NaN
    xp.exp(scores, out=scores)
    total = scores.sum(axis=-1, keepdims=True)  # (B, H, Tq, 1)  at least exp(0) = 1 where there is a visible key
    scores /= xp.where(total == 0.0, 1.0, total)
    return scores


def _visible(
    xp: ModuleType,
    q: Array,
    k: Array,
    causal: bool,
    key_lengths: Array | None,
    mask: Array | None,
    bias: Array | None,
) -> Array | None:
    """All masks as one boolean array of four axes that broadcasts to (B, H, Tq, Tk); None where all is visible."""
    Tq, Tk = q.shape[2], k.shape[2]
    allowed = []
    if causal:
        allowed.append(xp.tri(Tq, Tk, Tk - Tq, dtype=bool)[None, None])  # (1, 1, Tq, Tk)
    if key_lengths is not None:
        allowed.append((xp.arange(Tk) < key_lengths[:, None])[:, None, None])  # (B, 1, 1, Tk)
    if mask is not None:
        allowed.append(mask.reshape((1,) * (4 - mask.ndim) + mask.shape))
    if bias is not None:
        allowed.append((bias.real != -inf).reshape((1,) * (4 - bias.ndim) + bias.shape))
    if not allowed:
        return None
    visible = allowed[0]
    for other in allowed[1:]:
        visible = visible & other
    return visible


def _zero_hidden(visible: Array, q: Array, k: Array, v: Array) -> tuple[Array, Array, Array]:
    """Zero the rows of q that see nothing, of k and v that nobody sees: in a product 0 · NaN would be NaN."""
    xp = array_namespace(q)
    seeing = visible.any(axis=3)  # (B|1, H|1, Tq|1)
    seen = visible.any(axis=2)  # (B|1, H|1, Tk|1)
    if seen.shape[1] > 1:
        seen = _split(seen, k).any(axis=2)  # (B|1, Hkv, Tk|1)  by one head of the group
    zeroed = [xp.where(rows[..., None], x, 0.0) for rows, x in ((seeing, q), (seen, k), (seen, v))]
    return zeroed[0], zeroed[1], zeroed[2]


# ---- grouped heads: views, no copies of k and v


def _split(x: Array, k: Array) -> Array:
    """(B, H, ...) as (B, Hkv, G, ...): the heads that share a key/value head side by side."""
    Hkv = k.shape[1]
    return x.reshape(x.shape[0], Hkv, x.shape[1] // Hkv, *x.shape[2:])


def _join(x: Array) -> Array:
    """(B, Hkv, G, ...) as (B, H, ...)."""
    return x.reshape(x.shape[0], x.shape[1] * x.shape[2], *x.shape[3:])


def _sum_group(x: Array) -> Array:
    """(B, Hkv, G, ...) summed over G."""
    return x[:, :, 0] if x.shape[2] == 1 else x.sum(axis=2)


def _sum_to(x: Array, shape: tuple[int, ...]) -> Array:
    """x summed over the axes along which an array of `shape` was broadcast to x."""
    padded = (1,) * (x.ndim - len(shape)) + tuple(shape)
    axes = tuple(axis for axis, n in enumerate(padded) if n == 1 and x.shape[axis] != 1)
    return (x.sum(axis=axes) if axes else x).reshape(shape)


# ---- what was given


def _check(
    q: Array, k: Array, v: Array, key_lengths: Any, mask: Array | None, bias: Array | None, scale: float | None
) -> tuple[ModuleType, Array | None, float]:
    """Validate everything; returns the array library, the lengths as an array, and the scale."""
    xp = floating_namespace(q, k, v, bias)
    if q.ndim != 4 or k.ndim != 4 or v.ndim != 4:
        raise ValueError(f"attention: q {q.shape}, k {k.shape}, v {v.shape}; expected four axes each (B, H, T, D)")
    B, H, Tq, D = q.shape
    Hkv, Tk = k.shape[1:3]
    if k.shape[0] != B or k.shape[3] != D or v.shape[:3] != k.shape[:3]:
        raise ValueError(
            f"attention: q {q.shape}, k {k.shape} and v {v.shape} do not fit; "
            "expected (B, H, Tq, D), (B, Hkv, Tk, D) and (B, Hkv, Tk, Dv)"
        )
    if Hkv == 0 or H == 0 or H % Hkv:
        raise ValueError(f"attention: {H} query heads over {Hkv} key/value heads; the second must divide the first")
    if D == 0:
        raise ValueError("attention: the head size D is 0; expected at least 1")
    if isinstance(key_lengths, list | tuple):
        key_lengths = xp.asarray(key_lengths, dtype="int64")
    array_namespace(q, mask, key_lengths)
    if mask is not None and mask.dtype.kind != "b":
        raise TypeError(f"attention: mask has dtype {mask.dtype}, expected bool (True = may look)")
    for name, given in (("mask", mask), ("bias", bias)):
        if given is not None and not _broadcasts(given.shape, (B, H, Tq, Tk)):
            raise ValueError(f"attention: {name} has shape {given.shape}, which does not broadcast to {(B, H, Tq, Tk)}")
    if key_lengths is not None:
        if key_lengths.dtype.kind not in "iu":
            raise TypeError(f"attention: key_lengths have dtype {key_lengths.dtype}, expected integers")
        if key_lengths.shape != (B,):
            raise ValueError(f"attention: key_lengths have shape {key_lengths.shape}, expected {(B,)}")
        if xp is np and B and not (key_lengths.min() >= 0 and key_lengths.max() <= Tk):
            raise ValueError(f"attention: key_lengths are {key_lengths.tolist()}, expected 0..{Tk} for {Tk} keys")
    return xp, key_lengths, D**-0.5 if scale is None else float(scale)


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    return len(shape) <= len(to) and all(n in (1, m) for n, m in zip(reversed(shape), reversed(to), strict=False))
