"""What the CPU versions share: blocks that stay in cache, and what they serve.

A block is a run of rows of about `BLOCK_BYTES`, worked on by several passes with `out=` before the next is touched: the
passes run in the L2 cache, and no temporary as large as the array is made (above 32 MB such a temporary would be mapped
anew, page by page, at every call).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

BLOCK_BYTES = 1 << 18

# Row dot products without a temporary; NumPy 1 has no such function.
row_dot = getattr(np, "vecdot", lambda a, b: (a * b).sum(axis=-1))


def row_blocks(rows: np.ndarray, block_bytes: int = BLOCK_BYTES) -> Iterator[slice]:
    """Slices of whole rows, each about `block_bytes` large."""
    size = (
        max(1, block_bytes // max(1, rows.itemsize * rows.shape[-1])) if rows.ndim > 1 else block_bytes // rows.itemsize
    )
    return (slice(start, min(start + size, len(rows))) for start in range(0, len(rows), size))


def unserved(x: Any, minimum_size: int, dtypes: tuple[type, ...] = (np.float32, np.float64)) -> str | None:
    """Why x is no array for a blocked version; None if it is one: host, floating, contiguous, large enough."""
    if not isinstance(x, np.ndarray):
        return "serves NumPy arrays"
    if x.dtype not in dtypes:
        return f"serves {' and '.join(dtype.__name__ for dtype in dtypes)}, not {x.dtype}"
    if x.size < minimum_size:
        return f"{x.size} elements are fewer than {minimum_size}"
    return None if x.flags.c_contiguous else "the array is not contiguous"


MODERATE = (
    1e-18,
    1e30,
)  # sums without a shift: no overflow in float32, and what underflows, below 1e-38, doesn't count


def exp_sums(x: np.ndarray, ones: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Σ_c exp(x_c) of each row, exp(x) in `out`. An overflow without a shift is seen by the caller, in the sum."""
    with np.errstate(over="ignore"):
        return np.exp(x, out=out) @ ones  # (n,)


def moderate(sums: np.ndarray) -> bool:
    """Whether sums of unshifted exponentials can be trusted. NaN can't."""
    return bool(sums.min() > MODERATE[0] and sums.max() < MODERATE[1])
