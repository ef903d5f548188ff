"""Scaled dot-product attention with every mask, grouped heads and a bias.

    S = scale · q kᵀ + bias      P = softmax over the visible keys of S      y = P̃ v,  P̃ = dropout(P)

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

from collections.abc import Container, Sequence
from math import inf
from typing import Any, NamedTuple

from minilm.backend import Array, array_namespace, asarray_like, floating_namespace
from minilm.checks import check_broadcast, check_dropout, check_lengths
from minilm.ops.dropout import DropoutCache, dropout as drop
from minilm.ops.softmax import shifted_exponential
from minilm.selection import Gradients, backward_of, op, reference


class AttentionCache(NamedTuple):
    """P and P̃, B·H·Tq·Tk numbers each (one array without dropout), are kept: no second product and softmax.

    Copies of q, k and v, with zeros in what is hidden; k and v repeated, one per query head.
    """

    queries: Array  # (B, H, Tq, D)
    keys: Array  # (B, H, Tk, D)
    values: Array  # (B, H, Tk, Dv)
    weights: Array  # (B, H, Tq, Tk)  P
    dropped: Array  # (B, H, Tq, Tk)  P̃
    drawn: DropoutCache
    scale: float
    Hkv: int
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
) -> tuple[Array, AttentionCache]:
    """y = dropout(softmax(scale · q kᵀ + bias)) v over the visible keys; y (B, H, Tq, Dv).

    causal       query i sees keys j ≤ i + Tk − Tq
    key_lengths  (B,) integers: sequence b has keys 0..key_lengths[b]−1. A host array is checked to lie in 0..Tk
    mask         boolean, True = may look; broadcasts to (B, H, Tq, Tk)
    bias         added to the scores, differentiable; broadcasts to (B, H, Tq, Tk)
    scale        1/√D by default
    dropout      the probability with which a weight is set to 0, the others times 1/(1 − dropout); drawn from `rng`

    Masks of all kinds combine: a key is seen where each allows it.
    Raises ValueError where shapes do not fit, TypeError for a mask that is not boolean or lengths that are no integers.
    """
    xp = floating_namespace(q, k, v, bias)
    lengths = check_attention("attention", q, k, v, key_lengths, mask, bias, dropout, rng)
    (_, H, _, D), (_, Hkv, Tk, _) = q.shape, k.shape
    factor = D**-0.5 if scale is None else float(scale)
    visible = _visible(q, k, causal, lengths, mask, bias)  # (B, H, Tq, Tk)
    seeing, seen = visible.any(axis=3)[..., None], visible.any(axis=2)[..., None]  # (B, H, Tq, 1), (B, H, Tk, 1)
    queries = xp.where(seeing, q, 0.0)  # (B, H, Tq, D)  zeros, since in a product 0 · NaN would be NaN
    keys = xp.where(seen, xp.repeat(k, H // Hkv, axis=1), 0.0)  # (B, H, Tk, D)
    values = xp.where(seen, xp.repeat(v, H // Hkv, axis=1), 0.0)  # (B, H, Tk, Dv)
    products = factor * (queries @ keys.swapaxes(-1, -2))  # (B, H, Tq, Tk)
    scores = xp.where(visible, products if bias is None else products + bias, -inf)
    weights = _softmax(scores) if Tk else scores  # without keys there is no maximum to take
    dropped, drawn = drop(weights, dropout, rng)
    y = dropped @ values  # (B, H, Tq, Dv)
    bias_shape = None if bias is None else bias.shape
    return y, AttentionCache(queries, keys, values, weights, dropped, drawn, factor, Hkv, bias_shape)


@backward_of(attention)
def attention_backward(dy: Array, cache: AttentionCache, wrt: Container[str] = ("q", "k", "v", "bias")) -> Gradients:
    """With M the dropout mask divided by 1 − dropout:

        dv = P̃ᵀ dy        dP̃ = dy vᵀ        dP = M ∘ dP̃        dS_ij = P_ij (dP_ij − Σ_k P_ik dP_ik)
        dq = scale · dS k        dk = scale · dSᵀ q        dbias = dS

    Masked pairs have P = 0, hence dS = 0. dk and dv are summed over the query heads of a group, dbias over the axes
    along which the bias was broadcast. Returns (dq, dk, dv, dbias), None for what `wrt` does not name and for a bias
    that was not given.
    """
    queries, keys, values, weights, dropped, drawn, scale, Hkv, bias_shape = cache
    ddropped = dy @ values.swapaxes(-1, -2)  # (B, H, Tq, Tk)
    dweights = drop.backward(ddropped, drawn)
    through_sum = (weights * dweights).sum(axis=-1, keepdims=True)  # (B, H, Tq, 1)
    dscores = weights * (dweights - through_sum)  # (B, H, Tq, Tk)
    dq = scale * (dscores @ keys) if "q" in wrt else None  # (B, H, Tq, D)
    dk = _sum_groups(scale * (dscores.swapaxes(-1, -2) @ queries), Hkv) if "k" in wrt else None  # (B, Hkv, Tk, D)
    dv = _sum_groups(dropped.swapaxes(-1, -2) @ dy, Hkv) if "v" in wrt else None  # (B, Hkv, Tk, Dv)
    dbias = _sum_to(dscores, bias_shape) if bias_shape is not None and "bias" in wrt else None
    return dq, dk, dv, dbias


def attention_weights(q: Array, k: Array, **options: Any) -> Array:
    """P (B, H, Tq, Tk), for pictures: rows sum to 1, or to 0. Options: those of `attention` but dropout."""
    with reference():  # whose cache holds P
        return attention(q, k, k, **options)[1].weights


def check_attention(
    name: str, q: Array, k: Array, v: Array, key_lengths: Any, mask: Any, bias: Any, dropout: float, rng: Any
) -> Array | None:
    """The rules for attention's arguments, dtypes of numbers apart. Returns the lengths as an array of q's library.

    Raises TypeError for a mask or lengths of a wrong dtype or library, ValueError for everything else.
    """
    array_namespace(q, k, v)
    fit = q.ndim == k.ndim == v.ndim == 4 and k.shape[::3] == q.shape[::3] and v.shape[:3] == k.shape[:3]
    if not fit or q.shape[3] == 0:
        expected = "(B, H, Tq, D), (B, Hkv, Tk, D) and (B, Hkv, Tk, Dv) with D >= 1"
        raise ValueError(f"{name}: q {q.shape}, k {k.shape} and v {v.shape} do not fit; expected {expected}")
    (B, H, Tq, _), (Hkv, Tk) = q.shape, k.shape[1:3]
    if Hkv == 0 or H == 0 or H % Hkv:
        raise ValueError(f"{name}: {H} query heads over {Hkv} key/value heads; the second must divide the first")
    if mask is not None and mask.dtype.kind != "b":
        raise TypeError(f"{name}: mask has dtype {mask.dtype}, expected bool (True = may look)")
    check_broadcast(f"{name}: mask", mask, (B, H, Tq, Tk))
    check_broadcast(f"{name}: bias", bias, (B, H, Tq, Tk))
    check_dropout(f"{name}: dropout", dropout, rng)
    lengths = None if key_lengths is None else check_lengths(f"{name}: key_lengths", key_lengths, B, Tk)
    if lengths is not None and isinstance(key_lengths, list | tuple):
        lengths = asarray_like(lengths, q)
    array_namespace(q, mask, bias, lengths)
    return lengths


def _visible(q: Array, k: Array, causal: bool, lengths: Array | None, mask: Array | None, bias: Array | None) -> Array:
    """Which query sees which key, all masks together: boolean (B, H, Tq, Tk)."""
    xp = array_namespace(q)
    (B, H, Tq, _), Tk = q.shape, k.shape[2]
    query, key = xp.arange(Tq)[:, None], xp.arange(Tk)  # (Tq, 1), (Tk,)
    visible = xp.ones((B, H, Tq, Tk), bool)
    if causal:
        visible = visible & (key <= query + Tk - Tq)
    if lengths is not None:
        visible = visible & (key < lengths[:, None])[:, None, None]  # (B, 1, 1, Tk)
    if mask is not None:
        visible = visible & mask
    if bias is not None:
        visible = visible & (bias.real != -inf)
    return visible


def _softmax(scores: Array) -> Array:
    """Along the last axis; zeros in a row of all −∞."""
    _, e, total, _ = shifted_exponential(scores, axis=-1)
    return e / total


def _sum_groups(x: Array, Hkv: int) -> Array:
    """(B, H, Tk, D) summed over the query heads of each group: (B, Hkv, Tk, D)."""
    B, H, Tk, D = x.shape
    return x.reshape(B, Hkv, H // Hkv, Tk, D).sum(axis=2)


def _sum_to(x: Array, shape: tuple[int, ...]) -> Array:
    """x summed over the axes along which an array of `shape` was broadcast to x."""
    padded = (1,) * (x.ndim - len(shape)) + tuple(shape)
    axes = tuple(axis for axis, n in enumerate(padded) if n == 1 and x.shape[axis] != 1)
    return (x.sum(axis=axes) if axes else x).reshape(shape)
