"""Softmax cross-entropy on logits, in nats.

    L = −Σ_c q_c log p_c          p = softmax(logits)          q_c = (1 − s) w_t [c = t] + s/V · w_c

t: the target class, s: label smoothing, w: class weights. Agrees with `torch.nn.functional.cross_entropy`, except that
classes are the last axis here.

[label smoothing: Szegedy et al. 2016, "Rethinking the Inception Architecture", §7]
"""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import numpy as np

from minilm.backend import Array, array_namespace, floating_namespace
from minilm.selection import backward_of, op

REDUCTIONS = ("mean", "sum", "none")


def check_reduction(op: str, reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"{op}: reduction {reduction!r} is unknown; choose one of {', '.join(REDUCTIONS)}")


class CrossEntropyCache(NamedTuple):
    """One array of the logits' size: p, computed in place of the shifted logits. The rest is per row or per class."""

    probabilities: Array  # (N, V)  N: all positions
    index: Array  # (N,)  the target class, 0 where it is ignored
    scale: Array  # (N,)  what the reduction multiplies a row by: 0 where the target is ignored
    target_share: Array  # (N,)  (1 − s) w_t
    class_share: Array | None  # (V,)  s/V · w_c; None without smoothing
    shape: tuple[int, ...]  # of the targets


def _targets(xp: ModuleType, logits: Array, targets: Array, ignore_index: int) -> tuple[Array, Array, Array]:
    """The target class of each row (0 where there is none), and which rows are ignored, or out of range."""
    V = logits.shape[-1] if logits.ndim else 0
    if V == 0 or targets.shape != logits.shape[:-1]:
        raise ValueError(f"cross_entropy: logits {logits.shape} and targets {targets.shape} do not fit; "
                         "expected (..., V) with V >= 1 and (...)")  # fmt: skip
    if targets.dtype.kind not in "iu":
        raise TypeError(f"cross_entropy: targets have dtype {targets.dtype}, expected integers: class numbers")
    targets = targets.reshape(-1).astype(np.int64)  # (N,)  signed: unsigned ids meet ignore_index = -100
    ignored = targets == ignore_index
    invalid = ((targets < 0) | (targets >= V)) & ~ignored
    if xp is np and invalid.any():  # on a GPU asking would wait for the device at each step: the loss is NaN there
        raise ValueError(f"cross_entropy: target {targets[invalid][0]} is out of range for V = {V} classes "
                         f"(and is not ignore_index = {ignore_index})")  # fmt: skip
    return xp.where(ignored | invalid, 0, targets), ignored, invalid


@op
def cross_entropy(
    logits: Array,
    targets: Array,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    class_weights: Array | None = None,
    reduction: str = "mean",
) -> tuple[Array, CrossEntropyCache]:
    """−Σ q log softmax(logits), in nats. logits (..., V), targets (...) integers; class_weights (V,) any real dtype.

    Returns the loss in the logits' dtype, 0-d for "mean" and "sum", (...) for "none". "mean" divides by the weight of
    the targets that are not ignored; where all are, it is NaN with zero gradients, as in PyTorch.
    Raises TypeError for targets that are no integers; ValueError for shapes that do not fit, and for a target that is
    no class (on a GPU that would need a synchronisation, so there the loss and the row's gradient become NaN).
    """
    check_reduction("cross_entropy", reduction)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing = {label_smoothing}, expected a number in [0, 1]")
    floating_namespace(logits)
    xp = array_namespace(logits, targets, class_weights)
    index, ignored, invalid = _targets(xp, logits, targets, ignore_index)
    V, dtype = logits.shape[-1], logits.real.dtype
    rows = xp.arange(index.size)
    if class_weights is None:
        weights, weight = xp.ones(V, dtype), xp.ones(index.size, dtype)  # (V,), (N,)
    elif class_weights.shape != (V,):
        raise ValueError(f"cross_entropy: class_weights have shape {class_weights.shape}, expected {(V,)}")
    else:
        weights = class_weights.astype(dtype)  # (V,)
        weight = weights[index]  # (N,)
    weight = xp.where(ignored, 0.0, xp.where(invalid, xp.nan, weight))  # (N,)

    p = logits.reshape(-1, V)  # (N, V)
    top = p.real.max(axis=-1, keepdims=True)  # (N, 1)
    p = p - xp.where(xp.isfinite(top), top, xp.nan)  # now x − m; a row of all −inf, or with +inf, has no loss: NaN
    target_logit, class_share = p[rows, index], None
    if label_smoothing:
        class_share = weights * (label_smoothing / V)  # (V,)
        smooth_logit = (xp.where(class_share == 0, 0.0, p) * class_share).sum(axis=-1)  # (N,)  not 0 · (−inf)
    xp.exp(p, out=p)
    total = p.sum(axis=-1)  # (N,)
    p /= total[:, None]
    log_total = xp.log(total)

    target_share = (1 - label_smoothing) * weight  # (N,)
    loss = target_share * xp.where(target_share == 0, 0.0, log_total - target_logit)  # (N,)
    if label_smoothing:
        loss = loss + xp.where(ignored, 0.0, class_share.sum() * log_total - smooth_logit)
    scale = xp.ones(index.size, dtype)  # (N,)
    if reduction == "mean":
        divisor = weight.sum()
        inverse = xp.where(divisor == 0, xp.nan, 1 / xp.where(divisor == 0, 1.0, divisor))
        scale = scale * inverse
    cache = CrossEntropyCache(p, index, xp.where(ignored, 0.0, scale), target_share, class_share, targets.shape)
    if reduction == "none":
        return loss.reshape(targets.shape), cache
    return (loss.sum() if reduction == "sum" else loss.sum() * inverse), cache


@backward_of(cross_entropy)
def cross_entropy_backward(dloss: Array | float, cache: CrossEntropyCache) -> Array:
    """dlogits = dloss (p Σ_c q_c − q), from ∂ log p_c / ∂ logits = [c = ·] − p. dloss: 1.0, or of the loss's shape."""
    p, index, scale, target_share, class_share, shape = cache
    xp = array_namespace(p)
    scale = (scale.reshape(shape) * dloss).reshape(-1)  # (N,)
    q_sum = target_share if class_share is None else target_share + class_share.sum()  # (N,)
    dlogits = p * (scale * q_sum)[:, None]  # (N, V)
    if class_share is not None:
        dlogits -= scale[:, None] * class_share
    dlogits[xp.arange(index.size), index] -= scale * target_share  # each (row, class) once: no update is lost
    return dlogits.reshape(*shape, p.shape[-1])  # (..., V)
