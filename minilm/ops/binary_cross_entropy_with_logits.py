"""Binary cross-entropy on logits, in nats.

    L = w t · softplus(−x) + (1 − t) · softplus(x)          softplus(x) = log(1 + eˣ)

t: the target, a number in [0, 1]; w: the weight of the positives. Agrees with
`torch.nn.functional.binary_cross_entropy_with_logits`.
"""

import math
from typing import NamedTuple

from minilm.backend import Array, array_namespace, floating_namespace
from minilm.checks import check_broadcast, check_reduction
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
    t = targets.astype(logits.real.dtype)
    if pos_weight is None or isinstance(pos_weight, int | float):
        w = 1.0 if pos_weight is None else float(pos_weight)
    else:
        array_namespace(logits, pos_weight)
        check_broadcast(f"{op}: pos_weight", pos_weight, logits.shape)
        w = pos_weight.astype(t.dtype)

    right = logits.real > 0
    above = xp.where(right, logits, 0.0)  # max(x, 0)
    rest = xp.log1p(xp.exp(xp.where(right, -logits, logits)))  # log(1 + exp(−|x|)): never overflows
    loss = w * t * (above - logits + rest) + (1 - t) * (above + rest)  # softplus(∓x) = max(∓x, 0) + rest
    scale = 1.0 if reduction != "mean" else 1 / loss.size if loss.size else math.nan
    return (loss if reduction == "none" else loss.sum() * scale), BinaryCrossEntropyCache(logits, t, w, scale)


@backward_of(binary_cross_entropy_with_logits)
def binary_cross_entropy_with_logits_backward(dloss: Array | float, cache: BinaryCrossEntropyCache) -> Array:
    """dlogits = dloss ((1 − t) σ(x) − w t σ(−x)): no near-equal numbers cancel. dloss: 1.0, or of the loss's shape."""
    x, t, w, scale = cache
    return dloss * scale * ((1 - t) * logistic(x) - w * t * logistic(-x))
