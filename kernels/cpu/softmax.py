"""Row softmax in blocks.

Differs from the definition in three ways. Blocks stay in cache. Row sums are products with a vector of ones. And a
block's rows are not shifted by their maxima where the exponentials are moderate without it, which saves two passes; the
sums tell: where one is too large or too small the block is done again with the shift, as the definition does it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minilm.kernels.cpu.blocks import exp_sums, moderate, row_dot, spread_blocks, unserved
from minilm.memory import empty
from minilm.selection import Version, register

MINIMUM_SIZE = 1 << 15


class BlockedSoftmaxCache(NamedTuple):
    """The output is enough."""

    y: np.ndarray  # (..., N)


def refuses(x: Any, axis: int = -1) -> str | None:
    """Why a call is left to the definition; None if it is served."""
    reason = unserved(x, MINIMUM_SIZE)
    if reason is None and axis not in (-1, x.ndim - 1):
        reason = f"serves the last axis, not {axis}"
    return reason


def blocked_softmax(x: np.ndarray, axis: int = -1) -> tuple[np.ndarray, BlockedSoftmaxCache]:
    """y (..., N), rows summing to 1; a row of all −∞ gives zeros."""
    rows = x.reshape(-1, x.shape[-1])  # (R, N)
    y, ones = empty(rows.shape, rows.dtype), np.ones(rows.shape[1], rows.dtype)

    def work(blocks: list[slice]) -> None:
        shifted = False
        for block in blocks:
            source, target = rows[block], y[block]  # (r, N)
            if not shifted:
                total = exp_sums(source, ones, target)  # (r,)
                shifted = not moderate(total)  # the next blocks are likely to be like this one
            if shifted:
                top = source.max(axis=1, keepdims=True)  # (r, 1)
                np.subtract(source, np.where(top == -np.inf, 0, np.where(top == np.inf, np.nan, top)), out=target)
                total = exp_sums(target, ones, target)
                total[top[:, 0] == -np.inf] = 1
            np.divide(1, total, out=total)
            target *= total[:, None]

    spread_blocks(work, rows)
    y = y.reshape(x.shape)
    return y, BlockedSoftmaxCache(y)


def blocked_softmax_backward(dy: np.ndarray, cache: BlockedSoftmaxCache) -> np.ndarray:
    """dx = y (dy − ⟨y, dy⟩)."""
    y = cache.y.reshape(-1, cache.y.shape[-1])  # (R, N)
    dy = dy.reshape(y.shape)
    dx = empty(y.shape, np.result_type(y, dy))

    def work(blocks: list[slice]) -> None:
        for block in blocks:
            np.subtract(dy[block], row_dot(y[block], dy[block])[:, None], out=dx[block])
            dx[block] *= y[block]

    spread_blocks(work, y)
    return dx.reshape(cache.y.shape)


register("softmax", Version("cpu.blocked", blocked_softmax, blocked_softmax_backward, BlockedSoftmaxCache, refuses))
