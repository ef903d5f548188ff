"""Softmax cross-entropy in row blocks that stay in the cache, for large host logits: a version of `ops.cross_entropy`.

    L = Σ_i s_i (log Σ_c exp(x_ic − m_i) − (x_it − m_i))        dx_ic = s_i (exp(x_ic − m_i) / Σ − [c = t])

The definition computes the probabilities as a whole array and keeps it: with 1024 x 10000 numbers each of its passes
goes to memory. Here

    - the forward goes through blocks of half a megabyte in one scratch array, and keeps two numbers per row: m and Σ
    - the backward computes exp again, block by block, into the gradient, which is the only array of the logits' size
    - row sums are products with ones, which run in BLAS
    - m = 0 is tried first: where all sums of a block are moderate, nothing overflowed and no term that counts was lost,
      and a pass for the maximum and one for the shift are saved. Else m is each row's maximum, from that block on

The backward pays for its exp; without a pool (see `minilm.memory`) it also pays for the page faults of a new gradient.
Besides the logits the two need half the definition's memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minilm.kernels.cpu.blocks import exp_sums, moderate, spread_blocks, unserved
from minilm.memory import empty
from minilm.ops.cross_entropy import check_cross_entropy
from minilm.selection import Version, problem, register

BLOCK_BYTES = 1 << 19
MINIMUM_SIZE = 1 << 15  # below, some hundredths of a millisecond are at stake: not worth leaving the text people read


class BlockedCrossEntropyCache(NamedTuple):
    """The logits, borrowed, and four numbers per row: exp is computed again rather than kept (N·V numbers)."""

    logits: np.ndarray  # (..., V)
    index: np.ndarray  # (N,)  the target class, 0 where it is ignored
    shift: np.ndarray  # (N,)  m
    total: np.ndarray  # (N,)  Σ_c exp(x_c − m)
    scale: np.ndarray  # (N,)  what the reduction multiplies a row by: 0 where the target is ignored


def refuses(
    logits: Any,
    targets: Any,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    class_weights: Any = None,
    reduction: str = "mean",
) -> str | None:
    """Why a call is left to the definition; None if it is served."""
    if reason := unserved(logits, MINIMUM_SIZE):
        return reason
    if not isinstance(targets, np.ndarray):
        return "serves NumPy arrays"
    if reduction not in ("mean", "sum") or class_weights is not None or label_smoothing != 0:
        return "serves reduction mean or sum, without class weights and label smoothing"
    return problem(check_cross_entropy, logits, targets, ignore_index, label_smoothing, class_weights, reduction)


def blocked_cross_entropy(
    logits: np.ndarray,
    targets: np.ndarray,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    class_weights: None = None,
    reduction: str = "mean",
) -> tuple[Any, BlockedCrossEntropyCache]:
    """The loss and its cache. logits (..., V), targets (...): what `refuses` lets pass, nothing is checked again."""
    rows = logits.reshape(-1, logits.shape[-1])  # (N, V)
    targets = targets.reshape(-1)  # (N,)
    ignored = targets == ignore_index
    index = np.where(ignored, 0, targets).astype(np.intp)

    shift, total = np.empty(len(rows), rows.dtype), np.empty(len(rows), rows.dtype)
    ones = np.ones(rows.shape[1], rows.dtype)

    def work(blocks: list[slice]) -> None:
        scratch, shifted = None, False
        for block in blocks:
            x = rows[block]  # (n, V)
            scratch = np.empty_like(x) if scratch is None else scratch
            if not shifted:
                shift[block], total[block] = 0.0, exp_sums(x, ones, scratch[: len(x)])
                shifted = not moderate(total[block])
            if shifted:
                top = x.max(axis=1)  # (n,)
                shift[block] = np.where(np.isfinite(top), top, np.nan)  # a row of all −inf, or with +inf, has no loss
                x = np.subtract(x, shift[block, None], out=scratch[: len(x)])
                total[block] = exp_sums(x, ones, scratch[: len(x)])

    spread_blocks(work, rows, BLOCK_BYTES)
    target_logit = rows[np.arange(len(rows)), index] - shift  # (N,)
    loss = np.where(ignored, 0, np.log(total) - target_logit).sum()
    count = len(rows) - np.count_nonzero(ignored)
    if reduction == "mean":
        loss = loss / rows.dtype.type(count) if count else rows.dtype.type(np.nan)
    scale = np.where(ignored, 0.0, 1 / max(count, 1) if reduction == "mean" else 1.0).astype(rows.dtype)
    return loss, BlockedCrossEntropyCache(logits, index, shift, total, scale)


def blocked_cross_entropy_backward(dloss: Any, cache: BlockedCrossEntropyCache) -> np.ndarray:
    """dlogits = dloss s (exp(x − m) / Σ − [c = t]), (..., V). dloss: 1.0, or 0-d."""
    logits, index, shift, total, scale = cache
    rows = logits.reshape(-1, logits.shape[-1])  # (N, V)
    scale = scale * rows.dtype.type(dloss)  # (N,)
    factor = (scale / total)[:, None]  # (N, 1)
    dlogits = empty(rows.shape, rows.dtype)

    def work(blocks: list[slice]) -> None:
        for block in blocks:
            x, d = rows[block], dlogits[block]  # (n, V)
            if shift[block].any():
                x = np.subtract(x, shift[block, None], out=d)
            np.exp(x, out=d)
            np.multiply(d, factor[block], out=d)

    spread_blocks(work, rows, BLOCK_BYTES)
    dlogits[np.arange(len(rows)), index] -= scale
    return dlogits.reshape(logits.shape)


register(
    "cross_entropy",
    Version("cpu.blocked", blocked_cross_entropy, blocked_cross_entropy_backward, BlockedCrossEntropyCache, refuses),
)
