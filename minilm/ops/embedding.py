"""The table look-up that turns ids into vectors.

    y[n] = W[ids[n]]        ids any integer shape (...), W (V, C), y (..., C)

It is the product of one-hot rows with W, without the product. Its gradient adds the rows of dy that share an id:

    ∂L/∂W[v] = Σ_{n: ids[n] = v} dy[n]

[Bengio et al. 2003, "A Neural Probabilistic Language Model", section 2: the matrix C]
"""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import numpy as np

from minilm.backend import Array, array_namespace, floating_namespace
from minilm.selection import backward_of, op


class EmbeddingCache(NamedTuple):
    """Which row went where. The values of W are not needed: y is linear in W."""

    ids: Array  # (...)  borrowed
    shape: tuple[int, int]  # (V, C) of W
    padding_idx: int | None


@op
def embedding(ids: Array, weight: Array, padding_idx: int | None = None) -> tuple[Array, EmbeddingCache]:
    """y = W[ids]. ids of any shape (...) and integer dtype, weight (V, C); y (..., C).

    The row `padding_idx` is looked up like any other, and gets no gradient; negative: from the end, as in PyTorch.

    Raises ValueError for a host id outside 0..V-1 (negative ids too). On a GPU that check would wait for the device,
    and is not made: there CuPy wraps a wrong id silently, and whoever builds the batch on the host has to check it,
    as the vocabularies and batches of `minilm.text` do.
    """
    xp = array_namespace(ids, weight)
    floating_namespace(weight)
    if ids.dtype.kind not in "iu":
        raise TypeError(f"embedding: ids have dtype {ids.dtype}, expected an integer dtype")
    if weight.ndim != 2:
        raise ValueError(f"embedding: weight has shape {weight.shape}, expected (V, C)")
    V = weight.shape[0]
    if padding_idx is not None and not -V <= padding_idx < V:
        raise ValueError(f"embedding: padding_idx is {padding_idx}, expected {-V}..{V - 1} for a table of {V} rows")
    if xp is np:
        _check_range(ids, V)
    y = weight.take(ids.astype("int64", copy=False), axis=0)  # (..., C)
    return y, EmbeddingCache(ids, weight.shape, padding_idx)


@backward_of(embedding)
def embedding_backward(dy: Array, cache: EmbeddingCache) -> Array:
    """dW (V, C), dense: row v is the sum of the rows of dy whose id is v, zero where there is none."""
    ids, (V, C), padding_idx = cache
    xp = array_namespace(dy, ids)
    dweight = _sum_by_id(xp, ids.reshape(-1), dy.reshape(-1, C), V)  # (V, C)
    if padding_idx is not None:
        dweight[padding_idx] = 0.0
    return dweight


def _sum_by_id(xp: ModuleType, ids: Array, rows: Array, V: int) -> Array:
    """Σ of the `rows` (N, C) that share an id, as (V, C). The same bits in every run, and no wait for the device.

    The rows are sorted by id, so that each id has a run of neighbours, which are then added like a knockout tournament:

        stride 1     a b c d e   →   a+b . c+d . e
        stride 2                 →   a+b+c+d . . . e
        stride 4                 →   a+b+c+d+e . . . .

    Pairwise sums round less than a running sum, and log₂ N rounds are few however often an id repeats. A pair at
    `stride` covers stride + 1 rows, so N // (stride + 1) places are enough for the pairs of a round: the shapes don't
    depend on the ids, whose repeats would have to be read back from a GPU. (Atomic additions, as of `add.at`, come in
    any order there; differences of cumulative sums lose digits.)
    """
    N = ids.shape[0]
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


def _check_range(ids: np.ndarray, V: int) -> None:
    """Raise ValueError for the first id outside 0..V-1, with its position."""
    if ids.size == 0 or (ids.min() >= 0 and ids.max() < V):
        return
    place = np.unravel_index(int(np.argmax((ids < 0) | (ids >= V))), ids.shape)
    position = ", ".join(str(int(i)) for i in place)
    raise ValueError(f"embedding: id {int(ids[place])} at position ({position}) is out of range; expected 0..{V - 1}")
