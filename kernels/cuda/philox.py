"""The dropout mask of the attention kernels on the host: the twin of philox.cuh, for tests and for curious readers.

Philox4x32-10 [Salmon et al. 2011]: counter (column // 4, row, b·H + h, 0), key (the seed's low and high 32 bits); the
word of a column is the result's word column % 4. A weight is kept where its word is at least p · 2³².
"""

from __future__ import annotations

import numpy as np

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


def threshold_of(p: float) -> np.uint32:
    """The largest word that is dropped, plus one: p · 2³², rounded, for a probability 0 <= p < 1."""
    if not 0.0 <= p < 1.0:
        raise ValueError(f"dropout is {p}, expected a probability 0 <= p < 1")
    return np.uint32(min(round(p * 2**32), 2**32 - 1))


def words(seed: int, heads: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The uint32 word of each (head, row, column), arrays that broadcast together."""
    heads, rows, columns = np.broadcast_arrays(heads, rows, columns)
    c0, c1, c2 = (x.astype(np.uint64) for x in (columns // 4, rows, heads))
    c3 = np.zeros_like(c0)
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF
    for _ in range(10):
        product0, product1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1 = (product1 >> _SHIFT) ^ c1 ^ np.uint64(k0), product1 & _LOW
        c2, c3 = (product0 >> _SHIFT) ^ c3 ^ np.uint64(k1), product0 & _LOW
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    chosen = np.choose(columns % 4, (c0, c1, c2, c3))
    return chosen.astype(np.uint32)


def keep_mask(seed: int, B: int, H: int, Tq: int, Tk: int, p: float) -> np.ndarray:
    """Which weights dropout keeps, boolean (B, H, Tq, Tk)."""
    head = np.arange(B * H)[:, None, None]
    kept = words(seed, head, np.arange(Tq)[:, None], np.arange(Tk)) >= threshold_of(p)  # (B·H, Tq, Tk)
    return kept.reshape(B, H, Tq, Tk)
