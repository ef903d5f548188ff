"""The error that arithmetic allows the row kernels, softmax and cross-entropy, elementwise; the rules are in `bounds`.

With z = scale (x − m), m the row's maximum, and e = exp(z), L lanes sharing a row of N numbers:

    e           ε = 5u|z| + 4u                     x − m, the factor scale·log₂e (two roundings, and scale's own), their
                                                   product: relative to the argument, which may be large
    l = Σ e     λ = Σ P ε + γ_c                    c = N/L + log₂ L, the longest chain of additions: a lane's own, and
                                                   the butterfly; where a row is read twice, 6u for each rescaling of l
    softmax     P (ε + λ + 2u)
    dot         Σ |dy| Δy + γ_{c+1} Σ |dy y|       of the y that was stored
    dx          |scale| (Δy (|t| + Δdot) + y Δdot) + 5u |scale y t|              t = dy − dot

    log l       λ + 2u|log l|
    loss        (a + B) Δlog l + u a|x_t − m| + (Δa + 3u a)|log p_t| + γ_{c+8} (B|log l| + Σ b|x − m|), B = Σ b
                a = (1 − s) w_t, Δa = 2u w_t + u a, b = s w / V; then the rows' sum and its factor S, off by ρ
    dlogits     S P (a + B) (ε + λ + ρ + 7u) + S P (Δa + γ_{c+4} B) + S (b + [c = t] a) (ρ + 6u) + S [c = t] Δa
"""

from __future__ import annotations

from math import log2
from typing import Any

import numpy as np

from minilm.kernels.check.bounds import EXPONENTIAL, Arithmetic, arithmetic, stored
from minilm.kernels.check.definitions import visible_columns
from minilm.kernels.cuda.cross_entropy import PER_LANE, PER_LANE_WITH_WEIGHTS
from minilm.kernels.cuda.rows import row_defines
from minilm.kernels.cuda.softmax import FORWARD_PER_LANE

GROUP = 4  # numbers of a lane between two rescalings, where a row is read twice; 1 in float64
ADDED_UP = 1024  # threads that add the rows' losses


def chain(dtype: str, N: int, per_lane: int) -> int:
    """The longest chain of roundings in the sum over a row: fewer lanes, longer chains."""
    defines = row_defines(dtype, N, False, per_lane)
    lanes = defines["LANES"]
    own = -(-N // lanes)
    rescaled = 0 if defines["HELD"] else 6 * -(-own // (1 if dtype == "float64" else GROUP))
    return own + int(log2(lanes)) + rescaled


def _exponentials(z: np.ndarray, seen: np.ndarray, how: Arithmetic) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """P, the relative error of each e, and that of their sum but for its own additions; rows along the last axis."""
    top = np.where(seen, z, -np.inf).max(axis=-1, keepdims=True)
    z = np.where(seen & (z != -np.inf), z - np.where(np.isfinite(top), top, 0.0), -np.inf)
    e = np.exp(z)
    total = e.sum(axis=-1, keepdims=True)
    P = e / np.where(total == 0, 1.0, total)
    error = how.unit * (5 * np.where(e == 0, 0.0, np.abs(z)) + EXPONENTIAL)
    return P, error, (P * error).sum(axis=-1, keepdims=True)


def softmax_bounds(
    x: np.ndarray, dtype: str, *, visible: np.ndarray | bool = True, scale: float = 1.0, dy: np.ndarray | None = None,
    terms: int | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:  # fmt: skip
    """Bounds on the errors of y = softmax(scale x) over visible columns, and dx (None without dy). x, dy (..., N).

    terms   the longest chain of additions, by default that of softmax.cu
    """
    how = arithmetic(dtype)
    u = how.unit
    x = x.astype(np.float64)
    seen = np.broadcast_to(visible, x.shape)
    P, error, sum_error = _exponentials(scale * np.where(seen, x, -np.inf), seen, how)
    c = chain(dtype, x.shape[-1], FORWARD_PER_LANE[dtype]) if terms is None else terms
    faint = (P == 0) & (x != -np.inf)  # 0 in float64 too, but not for a score of −∞: the kernel may keep a trace
    y_error = stored(P * (error + sum_error + how.sum(c) + 2 * u), P, how, seen & ((P > 0) | faint))
    if dy is None:
        return y_error, None
    dy = np.where(seen, dy.astype(np.float64), 0.0)
    t = dy - (P * dy).sum(axis=-1, keepdims=True)
    dot_error = (np.abs(dy) * y_error).sum(axis=-1, keepdims=True)
    dot_error += how.sum(c + 1) * np.abs(P * dy).sum(axis=-1, keepdims=True)
    dx_error = abs(scale) * (y_error * (np.abs(t) + dot_error) + P * dot_error + 5 * u * np.abs(P * t))
    return y_error, stored(dx_error, scale * P * t, how, y_error > 0)


def cross_entropy_bounds(
    logits: np.ndarray,
    targets: np.ndarray,
    dtype: str,
    *,
    label_smoothing: float = 0.0,
    class_weights: np.ndarray | None = None,
    reduction: str = "mean",
    ignore_index: int = -100,
    dloss: Any = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds on the errors of loss and dlogits. logits (..., V), targets (...); dloss a number or like the loss."""
    how = arithmetic(dtype)
    u, V = how.unit, logits.shape[-1]
    index = targets.reshape(-1).astype(np.int64)
    ignored = index == ignore_index
    index, rows = np.where(ignored, 0, index), np.arange(len(index))
    x = np.where(ignored[:, None], 0.0, logits.reshape(-1, V).astype(np.float64))  # (N, V)
    per_lane = PER_LANE[dtype]
    if label_smoothing and class_weights is not None:
        per_lane = min(per_lane, PER_LANE_WITH_WEIGHTS)
    c = chain(dtype, V, per_lane)

    P, error, sum_error = _exponentials(x, np.ones(x.shape, bool), how)
    z = x - x.max(axis=-1, keepdims=True)
    log_total = np.log(np.exp(z).sum(axis=-1))  # (N,)
    sum_error = sum_error[:, 0] + how.sum(c)
    log_error = sum_error + 2 * u * np.abs(log_total)
    weights = np.ones(V) if class_weights is None else class_weights.astype(np.float64)
    weight = np.where(ignored, 0.0, weights[index])  # (N,)
    a, b = (1 - label_smoothing) * weight, label_smoothing / V * weights  # (N,), (V,)
    a_error = u * (2 * weight + a)
    smooth = (b * np.where(b == 0, 0.0, np.abs(z))).sum(axis=-1)  # (N,)  Σ b|x − m|
    away, B = np.abs(z[rows, index]), b.sum()

    loss_error = (a + B) * log_error + u * a * away + (a_error + 3 * u * a) * np.abs(log_total + away)
    loss_error = np.where(ignored, 0.0, loss_error + how.sum(c + 8) * (B * np.abs(log_total) + smooth))
    smooth_logit = (b * np.where(b == 0, 0.0, z)).sum(axis=-1)
    loss = np.where(ignored, 0.0, a * (log_total + away) + B * log_total - smooth_logit)
    added = -(-len(index) // ADDED_UP) + 10
    S, factor_error = 1.0, 0.0
    if reduction == "mean":
        S, factor_error = 1 / weight.sum() if weight.any() else np.nan, how.sum(added + 2)
    if reduction != "none":
        loss_error = S * (loss_error.sum() + (how.sum(added + 1) + factor_error) * np.abs(loss).sum())
        loss = S * loss.sum()
    loss_error = stored(loss_error, loss, how, reduction != "none" or ~ignored)

    at_target = np.zeros(x.shape)
    at_target[rows, index] = 1.0
    a, a_error = a[:, None], a_error[:, None]
    size = P * (a + B)
    d_error = size * (error + sum_error[:, None] + factor_error + 7 * u) + P * (a_error + how.sum(c + 4) * B)
    d_error += (b + at_target * a) * (factor_error + 6 * u) + at_target * a_error
    d = S * (size - b - at_target * a)
    d_error = stored(S * d_error, d, how, ~ignored[:, None])
    by = np.broadcast_to(np.asarray(dloss, np.float64), targets.shape).reshape(-1, 1) if rows.size else 1.0
    d_error = stored(np.abs(by) * d_error + u * np.abs(by * d), by * d, how, ~ignored[:, None])  # backward's own
    shape = targets.shape if reduction == "none" else ()
    return np.reshape(loss_error, shape), d_error.reshape(logits.shape)


def call_bounds(
    op: str, arrays: dict[str, np.ndarray], options: dict[str, Any], dtype: str, dy: np.ndarray | float | None
) -> list[np.ndarray | None]:
    """y and the gradients of a call of "softmax" or "cross_entropy", as `definitions.definition` orders them."""
    if op == "cross_entropy":
        return list(cross_entropy_bounds(**arrays, dtype=dtype, **options, dloss=1.0 if dy is None else dy))
    hidden = {name: options[name] for name in ("causal", "key_lengths") if name in options}
    visible = visible_columns(arrays["x"].shape, **hidden)
    return list(softmax_bounds(arrays["x"], dtype, visible=visible, scale=options.get("scale", 1.0), dy=dy))
