"""Binary cross-entropy on logits, in nats.

    L = w t · softplus(−x) + (1 − t) · softplus(x)          softplus(x) = log(1 + eˣ)

t: the target, a number in [0, 1]; w: the weight of the positives. Agrees with
`torch.nn.functional.binary_cross_entropy_with_logits`.
"""

from __future__ import annotations

from typing import NamedTuple

from minilm.backend import Array, array_namespace, floating_namespace
from minilm.ops.cross_entropy import check_reduction
from minilm.ops.sigmoid import logistic
from minilm.selection import backward_of, op


class BinaryCrossEntropyCache(NamedTuple):
    """Logits and targets, borrowed (the targets perhaps cast): σ is recomputed, nothing else is kept."""

    logits: Array  # (...)
    targets: Array  # (...)
    pos_weight: Array | float
    scale: float  # what the reduction multiplies by


@op
def binary_cross_entropy_with_logits(
    logits: Array, targets: Array, *, pos_weight: Array | float | None = None, reduction: str = "mean"
) -> tuple[Array, BinaryCrossEntropyCache]:
    """w t softplus(−x) + (1 − t) softplus(x), softplus(x) = log(1 + eˣ), in nats.

    logits (...); targets (...) 0/1 of any dtype, or probabilities in between; pos_weight w a number or an array that
    broadcasts to the logits. Returns the loss, 0-d for "mean" (over all elements) and "sum", (...) for "none".
    """
    op = "binary_cross_entropy_with_logits"
    check_reduction(op, reduction)
    xp = array_namespace(logits, targets)
    floating_namespace(logits)
    if targets.shape != logits.shape:
        raise ValueError(f"{op}: targets have shape {targets.shape}, expected the logits' {logits.shape}")
    dtype = logits.real.dtype
    t = targets.astype(dtype)
    w = 1.0 if pos_weight is None else pos_weight
    if isinstance(w, int | float):
        w = float(w)
    else:
        array_namespace(logits, w)
        fits = [ours in (1, theirs) for ours, theirs in zip(w.shape[::-1], logits.shape[::-1], strict=False)]
        if w.ndim > logits.ndim or not all(fits):
            raise ValueError(f"{op}: pos_weight {w.shape} does not broadcast to the logits {logits.shape}")
        w = w.astype(dtype)

    right = logits.real > 0
    above = xp.where(right, logits, 0.0)  # max(x, 0)
    rest = xp.log1p(xp.exp(xp.where(right, -logits, logits)))  # log(1 + exp(−|x|)): never overflows
    loss = w * t * (above - logits + rest) + (1 - t) * (above + rest)  # softplus(∓x) = max(∓x, 0) + rest
    scale = 1.0
    if reduction == "mean":
        scale = 1 / loss.size if loss.size else float("nan")
    cache = BinaryCrossEntropyCache(logits, t, w, scale)
    return (loss if reduction == "none" else loss.sum() * scale), cache


@backward_of(binary_cross_entropy_with_logits)
def binary_cross_entropy_with_logits_backward(dloss: Array | float, cache: BinaryCrossEntropyCache) -> Array:
    """dlogits = dloss ((1 − t) σ(x) − w t σ(−x)): no near-equal numbers cancel. dloss: 1.0, or of the loss's shape."""
    x, t, w, scale = cache
    return dloss * scale * ((1 - t) * logistic(x) - w * t * logistic(-x))
