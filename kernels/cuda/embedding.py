"""The gradient of an embedding on a GPU, the same bits in every run and without a wait: a version of `ops.embedding`.

The rows of dy are sorted by id, so that each id has a run of neighbours, which are then added like a knockout
tournament:

    stride 1     a b c d e   →   a+b . c+d . e
    stride 2                 →   a+b+c+d . . . e
    stride 4                 →   a+b+c+d+e . . . .

Pairwise sums round less than a running sum, and log₂ N rounds are few however often an id repeats. A pair at `stride`
covers stride + 1 rows, so N // (stride + 1) places are enough for the pairs of a round: the shapes don't depend on the
ids, whose repeats would have to be read back from the device. (Atomic additions, as of the definition's `add.at`, come
in any order there; differences of cumulative sums lose digits.)

Written with array functions alone, not in CUDA C++.
"""

from __future__ import annotations

from typing import NamedTuple

from minilm.backend import Array, array_namespace
from minilm.ops.embedding import embedding
from minilm.selection import reference


class TournamentCache(NamedTuple):
    """Which row went where, as in the definition."""

    ids: Array  # (...)  borrowed
    shape: tuple[int, int]  # (V, C) of W
    padding_idx: int | None


def look_up(ids: Array, weight: Array, padding_idx: int | None = None) -> tuple[Array, TournamentCache]:
    """y = W[ids], by the definition."""
    with reference():
        y, cache = embedding(ids, weight, padding_idx)
    return y, TournamentCache(*cache)


def add_by_tournament(dy: Array, cache: TournamentCache) -> Array:
    """dW (V, C): row v is the sum of the rows of dy whose id is v."""
    ids, (V, C), padding_idx = cache
    dweight = _sum_by_id(ids.reshape(-1), dy.reshape(-1, C), V)  # (V, C)
    if padding_idx is not None:
        dweight[padding_idx] = 0.0
    return dweight


def _sum_by_id(ids: Array, rows: Array, V: int) -> Array:
    """Σ of the `rows` (N, C) that share an id, as (V, C)."""
    xp, N = array_namespace(ids, rows), ids.shape[0]
    order = xp.argsort(ids, kind="stable")  # (N,)
    ids, rows = ids[order].astype("int64"), rows[order]  # copies: the caller's rows are not written
    first = xp.searchsorted(ids, ids, side="left")  # (N,)  where the run of each row's id begins
    count = xp.searchsorted(ids, ids, side="right") - first
    rank = xp.arange(N) - first  # (N,)  0 for the first occurrence of an id

    stride = 1
    while stride < N:
        gains = (rank % (2 * stride) == 0) & (rank + stride < count)
        left = xp.argsort(~gains, kind="stable")[: N // (stride + 1)]  # those that gain come first
        right = xp.minimum(left + stride, N - 1)
        rows[left] += xp.where(gains[left][:, None], rows[right], 0.0)  # `left` has no repeats
        stride *= 2

    # The first of a run goes to its id's row, every other to a place of its own behind the table.
    table = xp.zeros((V + N, rows.shape[1]), dtype=rows.dtype)
    table[xp.where(rank == 0, ids, V + xp.arange(N))] = rows
    return table[:V]
