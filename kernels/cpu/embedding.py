"""The gradient of an embedding by rounds.

Differs from the definition, which adds row after row: the rows of first occurrences are written to the table in one go,
those of second occurrences added in one go, and so on; no id repeats within a round. What is left after `ROUNDS`
rounds, a few frequent ids, is summed id by id, pairwise, which rounds less.

The backward is bound by memory: the dense table is written twice where a row was looked up. It runs on one thread: two
assignments to indexed rows take nearly as long side by side as one after the other.

The gradient stays dense, as `ops` defines it: to hand on only the rows that were looked up would save 1 or 2 % of a
step (a classifier of 10,000 x 64, GPT-2 small), too little for a second kind of gradient; AdamW goes over all anyway.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minilm.kernels.cpu.blocks import unserved
from minilm.memory import empty, zeros
from minilm.ops.embedding import check_embedding
from minilm.selection import Version, problem, register

MINIMUM_SIZE = 1 << 14  # numbers looked up
ROUNDS = 8
GATHERED_BYTES = 1 << 18  # of the rows that are on their way at a time


class ByRoundsCache(NamedTuple):
    """Which row went where."""

    ids: np.ndarray  # (...)  borrowed
    shape: tuple[int, int]  # (V, C) of W
    padding_idx: int | None


def refuses(ids: Any, weight: Any, padding_idx: int | None = None) -> str | None:
    """Why a call is left to the definition, wrong input included; None if it is served."""
    if reason := unserved(weight, 0) or problem(check_embedding, ids, weight, padding_idx):
        return reason
    return f"fewer than {MINIMUM_SIZE} numbers are looked up" if ids.size * weight.shape[1] < MINIMUM_SIZE else None


def look_up(ids: np.ndarray, weight: np.ndarray, padding_idx: int | None = None) -> tuple[np.ndarray, ByRoundsCache]:
    """y = W[ids]. The range is checked by `refuses`, so nothing needs to be checked, or buffered, again."""
    y = empty((*ids.shape, weight.shape[1]), weight.dtype)
    np.take(weight, ids, axis=0, out=y, mode="clip")
    return y, ByRoundsCache(ids, weight.shape, padding_idx)


def add_up(dy: np.ndarray, cache: ByRoundsCache) -> np.ndarray:
    """dW (V, C): row v is the sum of the rows of dy whose id is v, in a fixed order."""
    ids, (V, C), padding_idx = cache
    ids, rows = ids.reshape(-1), dy.reshape(-1, C)  # (N,), (N, C)
    order = np.argsort(ids.astype(np.uint16) if V <= 1 << 16 else ids, kind="stable")  # 16 bits: a radix sort
    ordered = ids[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    counts = np.diff(np.append(starts, ids.size))
    rank = np.empty(ids.size, np.intp)  # 0 for the first occurrence of an id, 1 for the second
    rank[order] = np.arange(ids.size) - np.repeat(starts, counts)
    dweight = zeros((V, C), rows.dtype)
    for occurrence in range(min(ROUNDS, counts.max())):
        _add_rows(dweight, ids, rows, np.flatnonzero(rank == occurrence), first=occurrence == 0)
    for run in np.flatnonzero(counts > ROUNDS):
        places = order[starts[run] + ROUNDS : starts[run] + counts[run]]
        dweight[ordered[starts[run]]] += _pairwise_sum(rows[places])
    if padding_idx is not None:
        dweight[padding_idx] = 0
    return dweight


def _add_rows(table: np.ndarray, ids: np.ndarray, rows: np.ndarray, places: np.ndarray, first: bool) -> None:
    """table[ids] += rows at these places, no id twice, in the order in which `rows` lie in memory; `first`: = rows."""
    size = max(1, GATHERED_BYTES // max(1, rows.itemsize * rows.shape[1]))
    gathered = np.empty((min(size, len(places)), rows.shape[1]), rows.dtype)
    for start in range(0, len(places), size):
        some = places[start : start + size]
        values = np.take(rows, some, axis=0, out=gathered[: len(some)], mode="clip")
        if first:
            table[ids[some]] = values
        else:
            table[ids[some]] += values


def _pairwise_sum(rows: np.ndarray) -> np.ndarray:
    """Σ over the rows of an array (n, C) that is used up: folded in half again and again, so that little is rounded."""
    n = len(rows)
    while n > 1:
        half = n // 2
        rows[:half] += rows[n - half : n]
        n -= half
    return rows[0]


register("embedding", Version("cpu.by_rounds", look_up, add_up, ByRoundsCache, refuses))
