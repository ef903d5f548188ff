"""The table look-up that turns ids into vectors.

    y[n] = W[ids[n]]        ids any integer shape (...), W (V, C), y (..., C)

It is the product of one-hot rows with W, without the product. Its gradient adds the rows of dy that share an id:

    ∂L/∂W[v] = Σ_{n: ids[n] = v} dy[n]

[Bengio et al. 2003, "A Neural Probabilistic Language Model", section 2: the matrix C]
"""

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

    Raises ValueError for a host id outside 0..V-1 (negative ids too). On a GPU that check would wait for the device and
    is not made, and CuPy wraps a wrong id silently: whoever builds the batch on the host has to check it.
    """
    check_embedding(ids, weight, padding_idx)
    floating_namespace(weight)
    y = weight.take(ids.astype("int64", copy=False), axis=0)  # (..., C)
    return y, EmbeddingCache(ids, weight.shape, padding_idx)


@backward_of(embedding)
def embedding_backward(dy: Array, cache: EmbeddingCache) -> Array:
    """dW (V, C), dense: row v is the sum of the rows of dy whose id is v, zero where there is none.

    On a GPU `add.at` adds in any order, and the last bits may differ: `kernels/cuda/embedding.py`, which runs there,
    always gives the same.
    """
    ids, (V, C), padding_idx = cache
    xp = array_namespace(dy, ids)
    dweight = xp.zeros((V, C), dy.dtype)
    xp.add.at(dweight, ids.reshape(-1).astype("int64"), dy.reshape(-1, C))
    if padding_idx is not None:
        dweight[padding_idx] = 0.0
    return dweight


def check_embedding(ids: Array, weight: Array, padding_idx: int | None) -> None:
    """Raises TypeError or ValueError where the arguments do not fit; the first wrong id is named with its position."""
    on_host = array_namespace(ids, weight) is np
    if ids.dtype.kind not in "iu":
        raise TypeError(f"embedding: ids have dtype {ids.dtype}, expected an integer dtype")
    if weight.ndim != 2:
        raise ValueError(f"embedding: weight has shape {weight.shape}, expected (V, C)")
    V = len(weight)
    if padding_idx is not None and not -V <= padding_idx < V:
        raise ValueError(f"embedding: padding_idx is {padding_idx}, expected {-V}..{V - 1} for a table of {V} rows")
    if on_host and ids.size and not (ids.min() >= 0 and ids.max() < V):
        place = tuple(np.argwhere((ids < 0) | (ids >= V))[0].tolist())
        raise ValueError(f"embedding: id {ids[place]} at position {place} is out of range; expected 0..{V - 1}")
