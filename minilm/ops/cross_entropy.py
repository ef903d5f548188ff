"""Softmax cross-entropy on logits, in nats.

    L = −Σ_c q_c log p_c          p = softmax(logits)          q_c = (1 − s) w_t [c = t] + s/V · w_c

t: the target class, s: label smoothing, w: class weights. Agrees with `torch.nn.functional.cross_entropy`, except that
classes are the last axis here.

[label smoothing: Szegedy et al. 2016, "Rethinking the Inception Architecture", §7]
"""

from typing import NamedTuple

import numpy as np

from minilm.backend import Array, array_namespace, floating_namespace
from minilm.checks import check_reduction
from minilm.ops.softmax import shifted_exponential
from minilm.selection import backward_of, op


class CrossEntropyCache(NamedTuple):
    """One array of the logits' size, p; the two parts of q are per row and per class."""

    p: Array  # (N, V)  N: all positions
    index: Array  # (N,)  the target class, 0 where it is ignored
    target_share: Array  # (N,)  (1 − s) w_t
    class_share: Array  # (V,)  s/V · w_c
    scale: Array  # (N,)  what the reduction multiplies a row by: 0 where the target is ignored
    shape: tuple[int, ...]  # of the targets


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
    floating_namespace(logits)
    check_cross_entropy(logits, targets, ignore_index, label_smoothing, class_weights, reduction)
    xp, V, dtype = array_namespace(logits), logits.shape[-1], logits.real.dtype
    classes = targets.reshape(-1).astype(np.int64)  # (N,)  signed: unsigned ids meet ignore_index = -100
    ignored = classes == ignore_index
    invalid = ((classes < 0) | (classes >= V)) & ~ignored
    rows, index = xp.arange(classes.size), xp.where(ignored | invalid, 0, classes)
    weights = xp.ones(V, dtype) if class_weights is None else class_weights.astype(dtype)  # (V,)
    weight = xp.where(ignored, 0.0, xp.where(invalid, xp.nan, weights[index]))  # (N,)
    target_share = (1 - label_smoothing) * weight  # (N,)
    class_share = label_smoothing / V * weights  # (V,)

    shifted, e, total, dead = shifted_exponential(logits.reshape(-1, V), axis=-1)
    sums = xp.where(dead, xp.nan, total)  # (N, 1)  a row of all −inf has no distribution
    p = e / sums  # (N, V)
    log_p = shifted - xp.log(sums)
    # A class without weight may be impossible: 0 · (−inf) counts as 0.
    at_target = xp.where(target_share == 0, 0.0, log_p[rows, index])  # (N,)
    at_classes = xp.where(class_share == 0, 0.0, log_p)  # (N, V)
    losses = xp.where(ignored, 0.0, -(target_share * at_target) - (class_share * at_classes).sum(axis=-1))  # (N,)
    divisor = weight.sum() if reduction == "mean" else xp.ones((), dtype)
    scale = 1 / xp.where(divisor == 0, xp.nan, divisor)  # 0-d
    row_scale = xp.where(ignored, 0.0, scale)  # (N,)
    loss = losses.reshape(targets.shape) if reduction == "none" else losses.sum() * scale
    return loss, CrossEntropyCache(p, index, target_share, class_share, row_scale, targets.shape)


@backward_of(cross_entropy)
def cross_entropy_backward(dloss: Array | float, cache: CrossEntropyCache) -> Array:
    """dlogits = dloss (p Σ_c q_c − q), from ∂ log p_c / ∂ logits = [c = ·] − p. dloss: 1.0, or of the loss's shape."""
    p, index, target_share, class_share, scale, shape = cache
    drows = (scale.reshape(shape) * dloss).reshape(-1)  # (N,)
    q_sum = target_share + class_share.sum()  # (N,)
    dlogits = drows[:, None] * (p * q_sum[:, None] - class_share)  # (N, V)
    dlogits[array_namespace(p).arange(len(index)), index] -= drows * target_share  # the part of q at the target
    return dlogits.reshape(*shape, p.shape[-1])  # (..., V)


def check_cross_entropy(
    logits: Array, targets: Array, ignore_index: int, smoothing: float, class_weights: Array | None, reduction: str
) -> None:
    """The rules for its arguments, the dtype of the logits apart. Raises TypeError or ValueError."""
    check_reduction("cross_entropy", reduction)
    if not 0 <= smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing = {smoothing}, expected a number in [0, 1]")
    xp = array_namespace(logits, targets, class_weights)
    V = logits.shape[-1] if logits.ndim else 0
    if V == 0 or targets.shape != logits.shape[:-1]:
        shapes = f"logits {logits.shape} and targets {targets.shape}"
        raise ValueError(f"cross_entropy: {shapes} do not fit; expected (..., V) with V >= 1 and (...)")
    if targets.dtype.kind not in "iu":
        raise TypeError(f"cross_entropy: targets have dtype {targets.dtype}, expected integers: class numbers")
    if class_weights is not None and class_weights.shape != (V,):
        raise ValueError(f"cross_entropy: class_weights have shape {class_weights.shape}, expected {(V,)}")
    if xp is np:  # on a GPU asking would wait for the device at each step: the loss is NaN there
        wrong = targets[((targets < 0) | (targets >= V)) & (targets.astype(np.int64) != ignore_index)]
        if wrong.size:
            classes = f"V = {V} classes, and is not ignore_index = {ignore_index}"
            raise ValueError(f"cross_entropy: target {wrong[0]} is out of range for {classes}")
