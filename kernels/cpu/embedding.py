"""The gradient of an embedding by occurrences.

Differs from the definition, whose tournament moves every row log₂ N times because a GPU may not be asked how often an
id repeats. Here that is known: the rows of first occurrences are written to the table in one go, those of second
occurrences added in one go, and so on; no id repeats within a round. What is left after `ROUNDS` rounds, a few frequent
ids, is summed id by id, pairwise.

Measured against the definition, 4096 ids of 10,000 x 256, float32, 1 thread, interleaved
(`python -m benchmarks embedding`): backward 2.7 times as fast.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minilm.kernels.cpu.blocks import unserved
from minilm.kernels.selection import Version, register

MINIMUM_SIZE = 1 << 14  # numbers looked up
ROUNDS = 8


class OccurrencesCache(NamedTuple):
    """Which row went where."""

    ids: np.ndarray  # (...)  borrowed
    shape: tuple[int, int]  # (V, C) of W
    padding_idx: int | None


def refuses(ids: Any, weight: Any, padding_idx: int | None = None) -> str | None:
    """Why a call is left to the definition, wrong input included; None if it is served."""
    reason = unserved(weight, 0)
    if reason is None and not (isinstance(ids, np.ndarray) and ids.dtype.kind in "iu"):
        reason = "ids are no host array of integers"
    if reason is None and (weight.ndim != 2 or ids.size * weight.shape[1] < MINIMUM_SIZE):
        reason = f"fewer than {MINIMUM_SIZE} numbers are looked up"
    if reason is None and (ids.min() < 0 or ids.max() >= len(weight)):
        reason = "an id is out of range"
    if reason is None and padding_idx is not None and not -len(weight) <= padding_idx < len(weight):
        reason = "padding_idx is out of range"
    return reason


def look_up(ids: np.ndarray, weight: np.ndarray, padding_idx: int | None = None) -> tuple[np.ndarray, OccurrencesCache]:
    """y = W[ids]. The range is checked by `refuses`, so nothing needs to be checked, or buffered, again."""
    y = np.empty((*ids.shape, weight.shape[1]), weight.dtype)
    np.take(weight, ids, axis=0, out=y, mode="clip")
    return y, OccurrencesCache(ids, weight.shape, padding_idx)


def add_up(dy: np.ndarray, cache: OccurrencesCache) -> np.ndarray:
    """dW (V, C): row v is the sum of the rows of dy whose id is v, in a fixed order."""
    ids, (V, C), padding_idx = cache
    ids, rows = ids.reshape(-1), dy.reshape(-1, C)  # (N,), (N, C)
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    counts = np.diff(np.append(starts, ids.size))
    dweight = np.zeros((V, C), rows.dtype)
    dweight[ordered[starts]] = rows[order[starts]]
    for occurrence in range(1, min(ROUNDS, counts.max())):
        places = starts[counts > occurrence] + occurrence
        dweight[ordered[places]] += rows[order[places]]  # no id twice
    for run in np.flatnonzero(counts > ROUNDS):
        places = order[starts[run] + ROUNDS : starts[run] + counts[run]]
        dweight[ordered[starts[run]]] += _pairwise_sum(rows[places])
    if padding_idx is not None:
        dweight[padding_idx] = 0
    return dweight


def _pairwise_sum(rows: np.ndarray) -> np.ndarray:
    """Σ over the rows of an array (n, C) that is used up: folded in half again and again, so that little is rounded."""
    n = len(rows)
    while n > 1:
        half = n // 2
        rows[:half] += rows[n - half : n]
        n -= half
    return rows[0]


register("embedding", Version("cpu.occurrences", look_up, add_up, OccurrencesCache, refuses))
