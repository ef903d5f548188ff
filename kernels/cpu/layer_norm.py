"""Layer normalization in blocks.

Differs from the definition in three ways. Blocks stay in cache, where the definition makes eight passes over the whole
array, each with a temporary. Means are products with a vector of 1/C, squared norms are row dot products: both several
times as fast as NumPy's reductions along a short last axis. Gain and bias of short rows are tiled to a block, so that
the affine map is one flat loop and not one per row; for long rows NumPy is kept from copying them instead
(`blocks.whole_rows`). Six passes forward and ten backward are left.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any, NamedTuple

import numpy as np

from minilm.kernels.cpu.blocks import LONG_ROW, row_dot, spread_blocks, unlike, unserved
from minilm.memory import empty
from minilm.selection import Version, register

MINIMUM_SIZE = 1 << 15
BLOCK_BYTES = 1 << 18  # half of what others take: five arrays have a part in the block, and the cache is one megabyte


class BlockedLayerNormCache(NamedTuple):
    """As the definition's: x̂ is kept rather than recomputed."""

    xhat: np.ndarray  # (R, C)
    rstd: np.ndarray  # (R,)  1/σ
    gain: np.ndarray  # (C,)  borrowed
    shape: tuple[int, ...]  # of x


def refuses(x: Any, gain: Any, bias: Any, eps: float = 1e-5) -> str | None:
    """Why a call is left to the definition; None if it is served."""
    if reason := unserved(x, MINIMUM_SIZE) or unlike(x, gain, bias):
        return reason
    return None if gain.shape == bias.shape == x.shape[-1:] else "the shapes do not fit"


def blocked_layer_norm(
    x: np.ndarray, gain: np.ndarray, bias: np.ndarray, eps: float = 1e-5
) -> tuple[np.ndarray, BlockedLayerNormCache]:
    """y = gain x̂ + bias, x̂ = (x − μ)/σ over the last axis. x (..., C)."""
    rows = x.reshape(-1, x.shape[-1])  # (R, C)
    R, C = rows.shape
    y, xhat, rstd = empty((R, C), x.dtype), empty((R, C), x.dtype), np.empty(R, x.dtype)
    average = np.full(C, 1 / C, x.dtype)

    def work(blocks: list[slice]) -> None:
        tiles = _tiles(blocks, gain), _tiles(blocks, bias)
        for block in blocks:
            h, n = xhat[block], block.stop - block.start  # (n, C)
            np.subtract(rows[block], (rows[block] @ average)[:, None], out=h)
            variance = row_dot(h, h)  # (n,)
            variance *= 1 / C
            variance += eps
            np.sqrt(variance, out=variance)
            np.divide(1, variance, out=rstd[block])
            h *= rstd[block, None]
            np.multiply(h, tiles[0][:n], out=y[block])
            y[block] += tiles[1][:n]

    spread_blocks(work, rows, BLOCK_BYTES)
    return y.reshape(x.shape), BlockedLayerNormCache(xhat, rstd, gain, x.shape)


def blocked_layer_norm_backward(
    dy: np.ndarray, cache: BlockedLayerNormCache, wrt: Container[str] = ("x", "gain", "bias")
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """dx = (g − ⟨g⟩ − x̂ ⟨g x̂⟩)/σ with g = gain dy, dgain = Σ dy x̂, dbias = Σ dy."""
    xhat, rstd, gain, shape = cache
    R, C = xhat.shape
    dy = dy.reshape(R, C)
    dx = empty((R, C), np.result_type(dy, xhat)) if "x" in wrt else None
    mean_gain = gain * gain.dtype.type(1 / C)  # row @ mean_gain is the mean of gain · row

    def work(blocks: list[slice]) -> tuple[np.ndarray, np.ndarray]:
        """dx of some blocks, and their part of dgain and dbias."""
        tile = _tiles(blocks, gain)
        scratch, ones = np.empty(tile.shape, gain.dtype), np.ones(len(tile), gain.dtype)
        dgain, dbias = np.zeros(C, gain.dtype), np.zeros(C, gain.dtype)
        for block in blocks:
            d, h, n = dy[block], xhat[block], block.stop - block.start  # (n, C)
            product = np.multiply(d, h, out=scratch[:n])  # dy · x̂
            if "gain" in wrt:
                dgain += ones[:n] @ product
            if "bias" in wrt:
                dbias += ones[:n] @ d
            if dx is not None:
                through_mean, through_sigma = d @ mean_gain, product @ mean_gain  # (n,)
                g = np.multiply(d, tile[:n], out=dx[block])
                g -= through_mean[:, None]
                g -= np.multiply(h, through_sigma[:, None], out=scratch[:n])
                g *= rstd[block, None]
        return dgain, dbias

    dgains, dbiases = zip(*spread_blocks(work, xhat, BLOCK_BYTES), strict=True)
    return (
        None if dx is None else dx.reshape(shape),
        sum(dgains[1:], dgains[0]) if "gain" in wrt else None,
        sum(dbiases[1:], dbiases[0]) if "bias" in wrt else None,
    )


def _tiles(blocks: list[slice], row: np.ndarray) -> np.ndarray:
    """(n, C): `row` as often as the largest block, which is the first, has rows; of long rows a view."""
    n = blocks[0].stop - blocks[0].start if blocks else 0
    return np.broadcast_to(row, (n, len(row))) if len(row) >= LONG_ROW else np.tile(row, (n, 1))


register(
    "layer_norm",
    Version("cpu.blocked", blocked_layer_norm, blocked_layer_norm_backward, BlockedLayerNormCache, refuses),
)
